"""Gives types to a composed configuration or to the configuration of a record, and checks the settings."""

from __future__ import annotations

import typing
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .. import redact
from ..errors import ConfigError
from . import checks, hardware
from .run_config import LARGEST, RunConfig


def parse(composed: DictConfig, *, elsewhere: bool = False) -> RunConfig:
    """Check a composed configuration and give it types.

    Args:
        composed: The configuration.
        elsewhere: The run is for another machine, so nothing is asked of this machine.

    Raises:
        ConfigError: The first setting that is wrong.
    """
    return _checked(typed(composed), elsewhere)


def typed(composed: DictConfig) -> RunConfig:
    """A composed configuration with types, the same on any machine: `auto` stays, and settings are not compared."""
    values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    scale = values.get("scale")
    if not isinstance(scale, dict) or "name" not in scale:
        raise ConfigError(f"scale must be a section with a name, got {scale!r}")
    return _typed(values | {"scale": scale["name"]})


def from_record(values: Any) -> RunConfig:
    """The typed configuration of a record (`record.config`), checked like a composed configuration.

    Raises:
        ConfigError: `values` has not exactly the settings of this version, or a setting does not fit this machine.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"config must be a section of settings, got {values!r}")
    return _checked(_typed(values))


def _typed(values: dict[str, Any]) -> RunConfig:
    for name, value in values.items():
        _refuse_secrets(name, value)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_message(error.errors()[0])) from None


def _checked(run: RunConfig, elsewhere: bool = False) -> RunConfig:
    planned = run.dry_run or elsewhere
    run = run.replace(hardware=hardware.hardware_in_force(run.hardware, planned=planned))
    checks.together(run.replace(dry_run=planned))
    return run


def _refuse_secrets(where: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _refuse_secrets(f"{where}.{name}", part)
    elif redact.holds_secret(value):
        raise ConfigError(f"{where} holds a key or a token, which must not get into a record")


def _message(error: ErrorDetails) -> str:
    """One line for the first error of pydantic: which setting, what it must be, and what it is."""
    *path, name = error["loc"]
    section: Any = RunConfig
    for part in path:
        section = _section_in(section.model_fields[part].annotation) if hasattr(section, "model_fields") else None
    where, fields = ".".join(map(str, error["loc"])), getattr(section, "model_fields", {})
    if error["type"] == "extra_forbidden":
        return f"{where} is not a setting; allowed: {', '.join(fields)}"
    if error["type"] == "missing":
        return f"{where} is missing"
    value = error["input"]
    if type(value) is int and value > LARGEST:
        return f"{where} must be at most {LARGEST}, got a number of {len(f'{value:x}') * 4} bits"
    field = fields.get(name)
    expected = (_allowed(field.annotation) or field.description) if field is not None else None
    return f"{where} must be {expected or error['msg']}, got {value!r}"


def _section_in(annotation: Any) -> Any:
    candidates = (annotation, *typing.get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _allowed(annotation: Any) -> str | None:
    """What a type accepts, in words."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section of settings"
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(annotation))
    parts = typing.get_args(annotation)
    for extra in getattr(annotation, "__metadata__", ()):
        if getattr(extra, "description", None):
            return str(extra.description)
    return next((text for part in parts if (text := _allowed(part))), None)
