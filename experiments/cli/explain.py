"""One line for the errors that Hydra and OmegaConf raise themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from ..errors import one_line

GROUPS = ("method", "task", "scale", "hardware", "logger", "experiment")  # of which the command line chooses


def explain(error: Exception, overrides: list[str], conf: Path) -> str:
    """One line for an error of Hydra's or OmegaConf's: what was wrong, where, and which values are allowed."""
    return one_line(_reason(error, overrides, conf))


def _reason(error: Exception, overrides: list[str], conf: Path) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text)
    if "Could not find 'hydra/launcher/submitit_" in text:
        return "hardware=slurm and hydra/launcher=submitit_* need hydra-submitit-launcher: pip install '.[slurm]'"
    if match := re.search(r"Could not find '([\w/]+)/([^'/]*)' Available options in '[\w/]+': (.*?) Config sear", text):
        group, value, allowed = match.groups()
        if group == "protocol":
            return f"there is no protocol {value} (<task>_<scale>); there are {', '.join(allowed.split())}"
        return f"{group} must be one of {', '.join(allowed.split())}, got {value!r}"
    where = re.search(r"full_key: (\S+)", f"{text} {error.__cause__ or ''}")
    if match := re.search(r"Could not override '([^']*)'", text):
        deeper = where is not None and where[1].startswith(f"{match[1]}.")
        return unknown_setting(where[1] if where and deeper else match[1], overrides, conf)
    if text.startswith("Error merging override") and error.__cause__:
        text = f"{text}: {' '.join(str(error.__cause__).split())}"
    text = text.split(" See https://")[0].split(" full_key:")[0].split(" Config search path:")[0]
    text = text.removeprefix("ConfigError raised while resolving interpolation: ") or type(error).__name__
    return f"{where[1]}: {text}" if where and where[1] not in text else text


def _unreadable(override: str, text: str) -> str:
    text = text.split(" See https://")[0].split(" expecting ")[0].removeprefix(f"Error parsing override '{override}' ")
    if text.startswith("LexerNoViableAlt"):
        text = "an odd character, or a quote without its end"
    return f"{override} cannot be read ({text}); allowed: name=value, with quotes around a value that is no plain word"


def setting_is_known(name: str, overrides: list[str], conf: Path) -> bool:
    """Whether the configuration has `name`, given the groups that were chosen."""
    *path, last = name.split(".")
    found, node = _walk(path, overrides, conf)
    return found == path and OmegaConf.is_dict(node) and last in [str(k) for k in node]


def unknown_setting(name: str, overrides: list[str], conf: Path) -> str:
    """The settings that stand where `name` was looked for, given the groups that were chosen."""
    if name.startswith("hydra"):
        return f"{name} is not a setting of Hydra's; --cfg hydra shows which are allowed"
    where, node = _walk(name.split(".")[:-1], overrides, conf)
    allowed = ", ".join(str(k) for k in node) if OmegaConf.is_dict(node) else "nothing below it"
    kind = f" of {'.'.join(where)}={node['name']}" if where and OmegaConf.is_dict(node) and "name" in node else ""
    return f"{name} is not a setting{kind}; allowed{' below ' + '.'.join(where) if where else ''}: {allowed}"


def _walk(path: list[str], overrides: list[str], conf: Path) -> tuple[list[str], Any]:
    """How far `path` leads into the configuration of the chosen groups, and what stands there."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    searched = [o for o in overrides if o.startswith("hydra.searchpath=")]
    groups = [o for o in overrides if o.split("=")[0] in GROUPS and re.fullmatch(r"\w+=[\w-]+", o)]
    groups = [o for o in groups if searched or (conf / f"{o.replace('=', '/')}.yaml").is_file()] + searched
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base=None):
        node: Any = compose("config", overrides=groups)
    where: list[str] = []
    for part in path:
        known = {str(k): k for k in node} if OmegaConf.is_dict(node) else {}
        if part not in known:
            break
        where.append(part)
        node = node[known[part]]
    return where, node
