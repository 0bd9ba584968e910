"""A cell: what fills one place of a table or one curve of a figure, at whatever scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..spec import methods


@dataclass(frozen=True)
class Cell:
    """A configuration; None is the protocol's own choice.

    Attributes:
        rank: A rank of the paper. `protocol.ranks` says which rank stands for it at a scale. A rank that a study
            chooses itself is one of `options`.
        options: More arguments of run.py, such as `method.alpha=16`.
        search: (setting, candidates) of what is searched in place of, or beside, what the protocol searches.
    """

    task: str
    method: str
    rank: int | None = None
    operator: str | None = None
    model: str | None = None
    options: tuple[str, ...] = ()
    search: tuple[tuple[str, tuple[Any, ...]], ...] = field(default=(), repr=False)


def label(method: str, rank: int | None) -> str:
    """`MoRA, r = 8`."""
    return methods.label(method) if rank is None else f"{methods.label(method)}, r = {rank}"


def alpha_2r(rank: int) -> tuple[str, ...]:
    """The setting with which LoRA has alpha = 2 r at the rank that stands for a rank of the paper."""
    return (f"protocol.lora_scale.r{rank}=2",)
