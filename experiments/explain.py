"""One line for the errors that Hydra and OmegaConf raise themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def explain(error: Exception, overrides: list[str], conf: Path) -> str:
    """One line for an error of Hydra's or OmegaConf's: what was wrong, where, and which values are allowed."""
    text = " ".join(str(error).split())
    if "Could not find 'hydra/launcher/submitit_" in text:
        return "hardware=slurm and hydra/launcher=submitit_* need hydra-submitit-launcher: pip install '.[slurm]'"
    if match := re.search(r"Could not find '(\w+)/([^']*)' Available options in '\w+': (.*?) Config search", text):
        group, value, allowed = match.groups()
        if group == "protocol":
            return f"there is no protocol {value} (<task>_<scale>); there are {', '.join(allowed.split())}"
        return f"{group} must be one of {', '.join(allowed.split())}, got {value!r}"
    if match := re.search(r"Could not override '([^']*)'", text):
        return _unknown_setting(match[1], overrides, conf)
    return text.split(" See https://")[0].split(" full_key:")[0]


def _unknown_setting(name: str, overrides: list[str], conf: Path) -> str:
    """The settings that stand where `name` was looked for, given the groups that were chosen."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    groups = [o for o in overrides if re.match(r"[a-z]+=[\w-]+$", o) and (conf / o.split("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base=None):
        node: Any = compose("config", overrides=groups)
    *path, _ = name.split(".")
    where = []
    for part in path:
        if not OmegaConf.is_dict(node) or part not in node:
            break
        where.append(part)
        node = node[part]
    allowed = ", ".join(str(k) for k in node) if OmegaConf.is_dict(node) else "nothing below it"
    kind = f" of {'.'.join(where)}={node['name']}" if where and "name" in node else ""
    return f"{name} is not a setting{kind}; allowed{' below ' + '.'.join(where) if where else ''}: {allowed}"
