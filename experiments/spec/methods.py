"""The methods that `conf/method/` has, without composing a run."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from . import compose


@cache
def names() -> tuple[str, ...]:
    """All methods, in the order of the alphabet."""
    return tuple(sorted(path.stem for folder in compose.folders() for path in (folder / "method").glob("*.yaml")))


def label(name: str) -> str:
    """What tables and figures call a method; its name where no file describes it any more."""
    return str(_file(name).get("label", name))


def looks(name: str) -> dict[str, int]:
    """Rank of the paper, such as `r256`, or `any` -> the look of the method's series in figures."""
    return dict(_file(name).get("looks") or {})


@cache
def _file(name: str) -> dict[str, Any]:
    """The settings of a method's own file, without those of the file that it inherits from."""
    for folder in compose.folders():
        path = folder / "method" / f"{name}.yaml"
        if path.is_file():
            return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    return {}
