"""One line for each error that Hydra or OmegaConf raises while a configuration is composed."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError, StorageError, one_line
from .compose import CONF, GROUPS, folders, of_its_own, search_path

# Errors whose messages are clear without the type of the error.
PLAIN = (HydraException, OmegaConfBaseException, ConfigError, StorageError, OSError)


def unknown_setting(name: str, arguments: list[str]) -> str | None:
    """Why the configuration that `arguments` choose has no setting `name`; None if the configuration has it."""
    chosen = [a for a in arguments if re.fullmatch(rf"({'|'.join(GROUPS)})=[\w-]+|hydra\.searchpath=.*", a)]
    chosen = [*search_path(_own_folders(arguments)), *chosen]
    try:
        with of_its_own():
            section: Any = OmegaConf.to_container(compose("config", overrides=chosen, return_hydra_config=True))
    except PLAIN:  # a choice is wrong too, and its own error says so
        return None
    *path, last = name.split(".")
    where: list[str] = []
    for part in path:
        if not isinstance(section.get(part), dict):
            break
        where.append(part)
        section = {str(key): value for key, value in section[part].items()}
    if where == path and last in section:
        return None
    kind = f" of {where[0]}={section['name']}" if len(where) == 1 and where[0] in GROUPS else ""
    below = f" below {'.'.join(where)}" if where else ""
    return f"{name} is not a setting{kind}; allowed{below}: {', '.join(section)}"


def _own_folders(arguments: list[str]) -> list[Path]:
    """The folders of a user's own files: those of `--config-dir` on this command line, and those known already."""
    named = [Path(after) for flag, after in itertools.pairwise(arguments) if flag in ("--config-dir", "-cd")]
    named += [Path(a.partition("=")[2]) for a in arguments if a.startswith("--config-dir=")]
    return list(dict.fromkeys(folder.absolute() for folder in (*named, *folders()) if folder != CONF))


def explain(error: Exception, arguments: list[str]) -> str:
    """One line that says what was wrong and where. For an unknown group or setting the line lists the allowed names."""
    return one_line(_reason(error, arguments))


def _reason(error: Exception, arguments: list[str]) -> str:
    text = " ".join(str(error).split())
    if "Could not find 'hydra/launcher/submitit_" in text:
        return "hardware=slurm and hydra/launcher=submitit_* need hydra-submitit-launcher: pip install '.[slurm]'"
    if match := re.search(r"Could not find '([\w/]+)/([^'/]*)' Available options in '[\w/]+': (.*?) Config sear", text):
        group, value, allowed = match[1], match[2], ", ".join(match[3].split())
        if group == "protocol":
            return f"task and scale choose protocol/{value}.yaml, which does not exist; there are {allowed}"
        return f"{group} must be one of {allowed}, got {value!r}"
    key = re.search(r"full_key: (\S+)", f"{text} {error.__cause__ or ''}")
    if match := re.search(r"Could not override '([^']*)'", text):
        name = max(match[1], key[1] if key else "", key=len)
        if reason := unknown_setting(name, arguments):
            return reason
    if text.startswith("Error merging override"):
        text = f"{text}: {' '.join(str(error.__cause__).split())}"
    text = re.split(r" See https://| full_key:| Config search path:", text)[0]
    text = text.removeprefix("ConfigError raised while resolving interpolation: ")
    if isinstance(error, OverrideParseException):
        hint = ", and write $HOME in place of ~" if "=~" in str(error.override) else ""
        return f"{error.override} cannot be read ({text}); allowed: name=value{hint}"
    if not text or not isinstance(error, PLAIN):
        text = f"{type(error).__name__}: {text}"
    return f"{key[1]}: {text}" if key and key[1] not in text else text
