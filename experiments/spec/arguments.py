"""Settings as arguments of run.py, and arguments of run.py as settings."""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from ..errors import ConfigError


def argument(name: str, value: Any) -> str:
    """`name=value`, quoted so that Hydra reads exactly this value.

    Args:
        name: The setting, perhaps with the sign `+` in front of its name.
        value: None, or a text, number or bool, or a list or mapping of these.
    """
    return f"{name}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(str(k))}:{_text(v)}" for k, v in value.items()) + "}"
    text = str(value)
    return text if _reads_as(text) else QuotedString(text, Quote.single).with_quotes()


@cache
def _reads_as(text: str) -> bool:
    """Whether Hydra reads a text that is not quoted as this text, and as nothing else, alone and in a list."""
    try:
        alone, listed = (OverridesParser.create().parse_override(f"x={form}").value() for form in (text, f"[{text}]"))
    except HydraException:
        return False
    return bool(text) and type(alone) is str and alone == text and listed == [text]


def settings(arguments: list[str]) -> dict[str, Any]:
    """Name -> value of each argument. A name keeps the sign `+` in front of it.

    Raises:
        ConfigError: An argument is a sweep, or takes a setting away.
        HydraException: An argument cannot be read.
    """
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(arguments):
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{override.input_line} is not one value; allowed: name=value")
        values[name_in(override)] = plain(override.value())
    return values


def name_in(override: Override) -> str:
    """The name of the setting that an argument sets, with the signs in front of it."""
    sign = "++" if override.is_force_add() else "+" if override.is_add() else ""
    return sign + override.get_key_element().lstrip("+~")


def plain(value: Any) -> Any:
    """A value of Hydra's parser without its marks of quotes."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    return value
