"""Composes configurations from `conf/`, for run.py and for other code, and registers the look-ups of these files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import omegaconf.base
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, grammar_parser

from . import protocol
from .arguments import argument

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("method", "task", "scale", "hardware", "logger", "experiment")  # the groups that a user chooses from
_searched: list[str] = []  # folders with a user's own files, from Hydra's search path


# OmegaConf parses a text such as ${method.rank} each time it needs the value, which takes most of its time.
parse_once = lru_cache(maxsize=4096)(grammar_parser.parse)


def register() -> None:
    """Teach OmegaConf the look-ups of `spec.protocol`, and to parse no text twice."""
    omegaconf.base.parse = parse_once  # type: ignore[attr-defined]
    for lookup in (protocol.learning_rate, protocol.lora_alpha, protocol.by_rank, protocol.lowest_rank):
        OmegaConf.register_new_resolver(lookup.__name__, lookup, replace=True)


def search(folders: list[str]) -> None:
    """Look for configuration files in these folders first, then in `conf/`."""
    _searched[:] = [folder for folder in folders if Path(folder) != CONF]


def folders() -> list[Path]:
    """All folders with configuration files: the user's own folders, then `conf/`."""
    return [*map(Path, _searched), CONF]


def choices(group: str) -> dict[str, Path]:
    """The choices of a group by name, with their files; a user's file replaces a file of `conf/`."""
    files = {path.stem: path for folder in reversed(folders()) for path in (folder / group).glob("*.yaml")}
    return dict(sorted(files.items()))


def plain_file(path: Path) -> DictConfig | None:
    """The settings of a file, where the file alone makes its section of a composition; else None.

    A file that inherits from another one does not, and neither does a file with settings of other sections.
    """
    if "@package" in path.read_text(encoding="utf-8"):
        return None
    settings = OmegaConf.load(path)
    return settings if isinstance(settings, DictConfig) and "defaults" not in settings else None


@cache
def file_settings(path: Path) -> dict[str, Any]:
    """The settings that one file holds, without inherited settings, and with unresolved interpolations."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


@contextlib.contextmanager
def of_its_own() -> Iterator[None]:
    """Compose apart from a job of Hydra that may be running: Hydra's global state is the same afterwards."""
    running, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def search_path(folders: Sequence[str] | Sequence[Path]) -> list[str]:
    """The argument that lets Hydra look into these folders too; none for no folders."""
    return [argument("hydra.searchpath", [f"file://{folder}" for folder in folders])] if folders else []


def composition(arguments: list[str]) -> DictConfig:
    """The configuration that run.py composes from these arguments. It can be changed."""
    register()
    with of_its_own():
        composed = compose("config", overrides=["logger=none", *search_path(_searched), *arguments])
    OmegaConf.set_struct(composed, False)
    return composed


def holds(composed: DictConfig, name: str) -> bool:
    """Whether a composition has a value of this name, and not a section or a choice of a file."""
    node: Any = composed
    for part in name.split("."):
        if not isinstance(node, DictConfig) or part not in list(node.keys()):  # `in node` would resolve the value
            return False
        node = node._get_node(part)
    return not isinstance(node, DictConfig)
