"""The scales that `conf/scale/` has, without composing a run."""

from __future__ import annotations

from functools import cache

import yaml

from . import compose


@cache
def names() -> tuple[str, ...]:
    """All scales, the smallest first."""
    files = [path for folder in compose.folders() for path in (folder / "scale").glob("*.yaml")]
    order = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")).get("order", 0) for path in files}
    return tuple(sorted(order, key=lambda name: (order[name], name)))
