"""A composed configuration, or that of a record -> the typed one."""

from __future__ import annotations

import dataclasses
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .. import redact
from ..errors import ConfigError
from . import checks, hardware
from .run_config import LARGEST, TEXT, Check, Hardware, Logger, Method, Paths, RunConfig, Task, Training


def parse(config: DictConfig) -> RunConfig:
    """Check a composed configuration and give it types.

    Raises:
        ConfigError: The first thing that is wrong with it.
    """
    return _checked(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def from_record(values: Any) -> RunConfig:
    """The typed configuration of a record (`record.config`), checked as one from the command line is.

    JSON has turned the ranks that are keys in `protocol` into texts; nothing that a run computes reads them there.

    Raises:
        ConfigError: It has not exactly the settings of this version, or one does not fit this machine.
    """
    if not isinstance(values, dict) or type(values.get("scale")) is not str:
        raise ConfigError("config.scale is not a text")
    return _checked({**values, "scale": {"name": values["scale"]}}, nulls=True)


def _checked(values: Any, *, nulls: bool = False) -> RunConfig:
    """With `nulls`, as in a record, null stands for a setting that a section does not have."""
    sections: dict[str, Any] = {"method": Method, "task": Task, "training": Training, "hardware": Hardware}
    sections.update(logger=Logger, paths=Paths)
    top = {f.name: f for f in dataclasses.fields(RunConfig) if "check" in f.metadata}
    expected = {*sections, *top, "scale", "protocol"}
    values = {name: None for name, f in top.items() if f.metadata["optional"]} | values
    if wrong := sorted(expected ^ set(values)):
        what = "is not a setting" if wrong[0] in values else "is missing"
        raise ConfigError(f"{wrong[0]} {what}; allowed: {', '.join(sorted(expected))}")
    scale = values["scale"]
    if not isinstance(scale, dict) or not TEXT.passes(scale.get("name")):
        raise ConfigError(f"scale must be a section with a name, got {scale!r}")
    if not isinstance(values["protocol"], dict):
        raise ConfigError(f"protocol must be a section of settings, got {values['protocol']!r}")
    parsed = {name: _section(cls, name, values[name], nulls) for name, cls in sections.items()}
    parsed["method"] = checks.operator_in_force(parsed["method"])
    parsed["hardware"] = hardware.hardware_in_force(parsed["hardware"], planned=bool(values["dry_run"]))
    for name, f in top.items():
        _check_value(f, name, values[name])
    for name in (*top, "protocol"):
        if redact.holds_secret(values[name]):
            raise ConfigError(f"{name} holds a key or a token, which must not get into a record")
    run = RunConfig(**parsed, **{name: values[name] for name in top}, scale=scale["name"], protocol=values["protocol"])
    checks.together(run)
    return run


def _section(cls: Any, where: str, values: Any, nulls: bool) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a section of settings, got {values!r}")
    if nulls:
        values = {name: value for name, value in values.items() if value is not None}
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name, value in values.items():
        if redact.holds_secret(value):
            raise ConfigError(f"{where}.{name} holds a key or a token, which must not get into a record")
        if name not in fields:
            raise ConfigError(f"{where}.{name} is not a setting; allowed: {', '.join(fields)}")
        _check_value(fields[name], f"{where}.{name}", value)
    missing = [n for n, f in fields.items() if n not in values and not f.metadata["optional"]]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing")
    return cls(**values)


def _check_value(f: dataclasses.Field[Any], where: str, value: Any) -> None:
    if value is None and f.metadata["nullable"]:
        return
    check: Check = f.metadata["check"]
    if type(value) is int and value > LARGEST:
        raise ConfigError(f"{where} must be at most {LARGEST}, got a number of {len(f'{value:x}') * 4} bits")
    if not check.passes(value):
        raise ConfigError(f"{where} must be {check.allowed}, got {value!r}")
