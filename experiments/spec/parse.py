"""Gives types to a composed configuration or to the configuration of a record, and checks the settings."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .. import redact, user_code
from ..errors import ConfigError
from . import checks, compose, hardware, methods, protocol
from .run_config import LARGEST, Method, RunConfig

FORMULA = "formula"  # what the file of a method says to a reader alone
REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")  # to another setting: ${protocol.dropout}


def parse(composed: DictConfig, *, elsewhere: bool = False) -> RunConfig:
    """Check a composed configuration and give it types.

    Args:
        composed: The configuration.
        elsewhere: The run is for another machine, so nothing is asked of this machine.

    Raises:
        ConfigError: The first setting that is wrong.
    """
    return checked(typed(composed), elsewhere=elsewhere)


def typed(composed: DictConfig) -> RunConfig:
    """A composed configuration with types, the same on any machine: `auto` stays, and settings are not compared."""
    _complete(composed)
    values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    scale = values.get("scale")
    if not isinstance(scale, dict) or "name" not in scale:
        raise ConfigError(f"scale must be a section with a name, got {scale!r}")
    return _without_others_code(_typed(values | {"scale": scale["name"]}))


def _without_others_code(run: RunConfig) -> RunConfig:
    """Take a user's Python file away from the methods and tasks that the file does not define.

    One command may compare the adapter of a user's file with LoRA, and the argument holds for all cells.
    """
    method, task = run.method, run.task
    if user_code.is_of_others(method.module, (method.peft or {}).get("peft_type")):
        method = method.replace(module=None)
    if user_code.is_of_others(task.module, task.name):
        task = task.replace(module=None)
    return run.replace(method=method, task=task)


def _complete(composed: DictConfig) -> None:
    """Check that every setting has a value, or refers to settings that exist.

    Raises:
        ConfigError: Settings are missing; the message names all of them.
    """
    plain: Any = OmegaConf.to_container(composed)
    absent = {missing for name, value in _leaves(plain) for missing in _missing(name, value, plain)}
    names = sorted(name for name in absent if not any(other.startswith(f"{name}.") for other in absent))
    if names:
        method, task, scale = (OmegaConf.select(composed, f"{group}.name") for group in ("method", "task", "scale"))
        of_method = all(name.startswith("method.") for name in names)
        where = f"method/{method}.yaml" if of_method else f"protocol/{task}_{scale}.yaml"
        verb = "is" if len(names) == 1 else "are"
        raise ConfigError(
            f"{', '.join(names)} {verb} missing: {where} or the command line must say the value"
            + ("" if len(names) == 1 else "s")
        )
    _refuse_unused(plain)


def _refuse_unused(plain: dict[str, Any]) -> None:
    """Refuse what stands in the file of a method without any effect, such as `ranks` in place of `rank`.

    A method's file may hold settings of its own, to which other settings refer.

    Raises:
        ConfigError: Nothing reads an entry of the section `method`.
    """
    section = plain.get("method")
    if not isinstance(section, dict):
        return
    _refuse_unused_rank(section)
    own = [name for name in section if name not in Method.model_fields and name != FORMULA]
    for name in own:
        if not _is_used(str(name), section, plain):
            known = ", ".join([*Method.model_fields, FORMULA])
            raise ConfigError(
                f"method.{name} has no effect: nothing refers to it, and it is no entry of a method's file; allowed: "
                f"{known}, or a setting to which another one refers (${{method.{name}}})"
            )


def _refuse_unused_rank(section: dict[str, Any]) -> None:
    """Refuse a rank that no setting of the adapter uses: runs of two ranks would be the same run under two names.

    Raises:
        ConfigError: The method has an adapter and a rank, and neither `budget` nor another setting uses the rank.
    """
    if not (section.get("peft") and section.get("rank")) or section.get("budget"):
        return
    if not _is_used("rank", section, section):
        raise ConfigError(
            f"method.rank has no effect: no setting of method={section.get('name')} uses the rank; allowed: a line "
            "budget in the method's file, which names the setting that spends the budget, or ${method.rank} below peft"
        )


def _is_used(name: str, section: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether a setting among `values` refers to an entry of the section `method`, or a setting of the method's files.

    The command line may have replaced the setting that refers to the entry, so the files count too.
    """
    files = [methods.settings(entry) for entry in methods.chain(str(section.get("name")))]
    reference = re.compile(rf"(method\.|{{\.+){re.escape(name)}\b")
    leaves = (value for part in (values, *files) for _, value in _leaves(part))
    return any(isinstance(value, str) and "${" in value and reference.search(value) for value in leaves)


def _missing(name: str, value: Any, plain: dict[str, Any]) -> list[str]:
    """The setting itself if it has no value yet, else the settings that it refers to and that do not exist."""
    if value == MISSING:
        return [name]
    if not isinstance(value, str):
        return []
    looked_up = [where for lookup, needs in protocol.NEEDS.items() if f"${{{lookup}:" in value for where in needs]
    return [where for where in (*REFERENCE.findall(value), *looked_up) if not _exists(plain, where.split("."))]


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting, with unresolved references."""
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, values


def _exists(values: Any, path: list[str]) -> bool:
    """Whether a setting exists. What lies below a reference or in a list is taken to exist."""
    for name in path:
        if isinstance(values, str | list):
            return True
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def of_methods(rank: int, *arguments: str) -> dict[str, RunConfig]:
    """Name -> the run of each method that has an adapter, at a rank and with further arguments of run.py."""
    compose.register()
    runs = {}
    for name in methods.names():
        own = [f"method={name}", *([f"method.rank={rank}"] if methods.has(name, "rank") else [])]
        run = parse(compose.composition([*own, *arguments]))
        if run.method.peft is not None:
            runs[name] = run
    return runs


def from_record(values: Any) -> RunConfig:
    """The typed configuration of a record (`record.config`), checked like a composed configuration.

    Raises:
        ConfigError: `values` has not exactly the settings of this version, or a setting does not fit this machine.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"config must be a section of settings, got {values!r}")
    return checked(_typed(values))


def _typed(values: dict[str, Any]) -> RunConfig:
    secrets = redact.known()
    for name, value in values.items():
        _refuse_secrets(name, value, secrets)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        absent = [".".join(map(str, e["loc"])) for e in errors if e["type"] == "missing"]
        if errors[0]["type"] == "missing":
            raise ConfigError(f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing") from None
        raise ConfigError(_message(errors[0])) from None


def checked(run: RunConfig, *, elsewhere: bool = False) -> RunConfig:
    """The run with the hardware that is in force, its settings compared with one another.

    Args:
        run: The run.
        elsewhere: The run is for another machine, so nothing is asked of this machine.

    Raises:
        ConfigError: The settings do not fit one another.
    """
    planned = run.dry_run or elsewhere
    run = run.replace(hardware=hardware.hardware_in_force(run.hardware, planned=planned))
    checks.together(run.replace(dry_run=planned))
    return run


def _refuse_secrets(where: str, value: Any, secrets: list[str]) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _refuse_secrets(f"{where}.{name}", part, secrets)
    elif redact.holds_secret(value, secrets):
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
    field, value, limit = fields.get(name), error["input"], error.get("ctx", {}).get("le")
    expected = (_allowed(field.annotation) or field.description) if field is not None else None
    if type(value) is not int or abs(value) <= LARGEST:
        return f"{where} must be {expected or error['msg']}, got {value!r}"
    most = expected if limit is None else f"at most {limit}"
    return f"{where} must be {most or error['msg']}, got a number of {value.bit_length()} bits"


def _section_in(annotation: Any) -> Any:
    candidates = (annotation, *typing.get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _allowed(annotation: Any) -> str | None:
    """What a type accepts, in words."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section of settings"
    if typing.get_origin(annotation) is dict:
        return "a section of settings"
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(annotation))
    parts = typing.get_args(annotation)
    for extra in getattr(annotation, "__metadata__", ()):
        if getattr(extra, "description", None):
            return str(extra.description)
    return next((text for part in parts if (text := _allowed(part))), None)
