"""The scales that `conf/scale/` has, without composing a run."""

from __future__ import annotations

from . import compose


def names() -> tuple[str, ...]:
    """All scales, the smallest first."""
    files = compose.choices("scale")
    return tuple(sorted(files, key=lambda name: (compose.file_settings(files[name]).get("order", 0), name)))
