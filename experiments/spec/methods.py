"""What the files of `conf/method/` say about methods, without composing a run."""

from __future__ import annotations

from typing import Any

from . import compose


def names() -> tuple[str, ...]:
    """All methods, in the order of the alphabet."""
    return tuple(compose.choices("method"))


def label(name: str) -> str:
    """What tables and figures call a method; the method's own name if its file is gone."""
    return str(settings(name).get("label", name))


def looks(name: str) -> dict[str, int]:
    """Rank of the paper, such as `r256`, or `any` -> the look of the method's series in figures."""
    return dict(settings(name).get("looks") or {})


def has_rank(name: str) -> bool:
    """Whether a method has the setting `method.rank`, in its own file or in one that it inherits from."""
    own = settings(name)
    inherited = [entry for entry in own.get("defaults", []) if isinstance(entry, str) and entry in names()]
    return "rank" in own or any(map(has_rank, inherited))


def settings(name: str) -> dict[str, Any]:
    """The settings of a method's own file, without those of the file that it inherits from."""
    path = compose.choices("method").get(name)
    return compose.file_settings(path) if path else {}
