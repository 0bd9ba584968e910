"""Composes configurations from `conf/`, for run.py and for other code, and registers the look-ups of these files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import omegaconf.base
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError, one_line
from . import protocol
from .arguments import argument

CONF = Path(__file__).parents[2] / "conf"
SELF = "_self_"  # in a list `defaults`: the settings of the file itself
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
    """Look for configuration files in these folders too, and no more in those that were named before.

    Raises:
        ConfigError: A file has the name of a file of `conf/`. Hydra would take the file of `conf/` without a word.
    """
    own = [folder for folder in folders if Path(folder) != CONF]
    for folder in map(Path, () if own == _searched else own):
        names = (path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
        if clash := next((name for name in names if (folder / name).is_file()), None):
            raise ConfigError(
                f"{folder / clash} has the name of a file of this project, and Hydra would ignore it; allowed: "
                "another name, or the settings that differ in experiment/NAME.yaml or on the command line"
            )
    _searched[:] = own


def folders() -> list[Path]:
    """All folders with configuration files: the user's own folders, then `conf/`."""
    return [*map(Path, _searched), CONF]


def choices(group: str) -> dict[str, Path]:
    """The choices of a group by name, with their files."""
    return dict(sorted((path.stem, path) for folder in folders() for path in (folder / group).glob("*.yaml")))


def file_of(group: str, name: str) -> Path | None:
    """The file of a choice of a group, such as `lora` of `method`; None without a choice of this name."""
    return next((path for folder in folders() if (path := folder / group / f"{name}.yaml").is_file()), None)


def section(group: str, name: str, below: tuple[Path, ...] = ()) -> DictConfig | None:
    """What the file of a choice, and the files from which it inherits, put into the section of their group.

    None where only Hydra can say: without such a file, or where one of the files has settings of other sections.

    Args:
        group: The group, such as `method`.
        name: The choice.
        below: The files that inherit from this one.
    """
    path = file_of(group, name)
    if path is None or path in below or "@package" in path.read_text(encoding="utf-8"):
        return None
    own = OmegaConf.load(path)
    if not isinstance(own, DictConfig):
        return None
    parts = {}
    for entry in map(str, own.pop("defaults", [SELF])):
        choice, _, package = entry.partition("@")
        folder, _, file = choice.rpartition("/")
        # A file in a folder of the group has a section of its own, unless the entry says `@_here_`.
        same_section = package == "_here_" or not (folder or package)
        part = own if entry == SELF else section(f"{group}/{folder}", file, (*below, path)) if same_section else None
        if part is None:
            return None
        parts[entry] = part
    return cast(DictConfig, OmegaConf.merge(*parts.values())) if SELF in parts else None


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
    """The configuration that run.py composes from these arguments. It can be changed.

    Raises:
        HydraException: An argument or a file is wrong; OmegaConfBaseException says the same.
    """
    register()
    try:
        with of_its_own():
            composed = compose("config", overrides=["logger=none", *search_path(_searched), *arguments])
    except OmegaConfBaseException:
        raise
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # how Hydra answers files of a wrong form
        raise HydraException(f"a configuration file is wrong: {one_line(str(error))}") from error
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
