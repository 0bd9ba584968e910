"""The parts of a measurement, as the command line names them and as a JSON file holds them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import ConfigError

SCHEMA = 1
Types = Mapping[str, type | tuple[type, ...]]  # name -> the type of its value in a file


def chosen_from(parts: Sequence[str]) -> Callable[[str], list[str]]:
    """The type of an argument that lists some of `parts`, such as linear,memory; gives them in the order of `parts`."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := sorted(set(found) - set(parts)):
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no part; allowed: {', '.join(parts)}")
        return [name for name in parts if name in found]

    return names


def read(path: Path, what: str, advice: str, entries: Types, part_entries: Types) -> dict[str, Any]:
    """The content of a file of measured parts. What a row holds is not checked.

    Args:
        path: The file.
        what: What the file should be, for the error.
        advice: What the user can do about a file that is something else.
        entries: What the file holds beside its schema and its parts.
        part_entries: What each part holds beside its rows.

    Raises:
        ConfigError: The file holds something else.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        _check(content, {"parts": dict, **entries}, "the file")
        if content.get("schema") != SCHEMA:
            raise ValueError(f"schema {content.get('schema')}, this version reads {SCHEMA}")
        for name, part in content["parts"].items():
            _check(part, {"rows": list, **part_entries}, f"the part {name}")
            for row in part["rows"]:
                _check(row, {}, f"a row of the part {name}")
    except ValueError as error:
        raise ConfigError(f"{path} is not {what} ({error}); {advice}") from None
    return dict(content)


def _check(value: Any, entries: Types, where: str) -> None:
    """Check that a value of a file is a mapping with these entries.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no mapping")
    if wrong := [name for name, kind in entries.items() if not isinstance(value.get(name), kind)]:
        raise ValueError(f"{where} has no {wrong[0]}, or one of another type")
