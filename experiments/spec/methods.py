"""The methods that `conf/method/` has, without composing a run."""

from __future__ import annotations

from functools import cache

import yaml

from . import compose


@cache
def names() -> tuple[str, ...]:
    """All methods, in the order of the alphabet."""
    return tuple(sorted(path.stem for folder in compose.folders() for path in (folder / "method").glob("*.yaml")))


@cache
def label(name: str) -> str:
    """What tables and figures call a method; its name where no file describes it any more."""
    for folder in compose.folders():
        path = folder / "method" / f"{name}.yaml"
        if path.is_file():
            return str(yaml.safe_load(path.read_text(encoding="utf-8")).get("label", name))
    return name
