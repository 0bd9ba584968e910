"""Figures 1 to 5: whose curves, and the points that were read off the paper's plots."""

from __future__ import annotations

from dataclasses import dataclass

from .layout import Cell, label, table
from .names import paper_json


@dataclass(frozen=True)
class Series:
    """A curve of a figure: whose it is, and the points that were read off the paper's plot (paper's step, value)."""

    label: str
    cell: Cell
    points: tuple[tuple[int, float], ...] = ()


PAPER_STEPS = 1000  # of the UUID experiment: what turns a step of Figures 2 and 3 into a fraction of the training
FIGURES = (1, 2, 3, 4, 5)


def _uuid(name: str) -> tuple[str, Cell]:
    method, _, rank = name.partition("_r")
    number = int(rank) if rank else None
    return label(method, number), Cell("uuid", method, number)


def figure(number: int) -> tuple[Series, ...]:
    """The curves of a figure. 1: Table 2 as curves; 2, 3: UUID loss; 4: pretraining loss; 5: spectra after pretraining.

    Raises:
        ValueError: There is no such figure.
    """
    if number == 1:
        layout = table(2)
        return tuple(
            Series(
                r.label,
                layout.cell(r, layout.columns[0]),
                tuple((int(s), v) for s, v in r.paper_values.items() if v is not None),
            )
            for r in layout.rows
        )
    if number in (2, 3):
        data = paper_json()[f"figure{number}"]
        published = tuple(
            Series(*_uuid(name), tuple((s, v) for s, v in zip(data["steps"], values, strict=True) if v is not None))
            for name, values in data["series"].items()
        )
        if number == 3:
            return published
        # Figure 2 goes through ranks, all at a scale of 2 but the highest: beside it, LoRA's variants of Table 2.
        return published + tuple(s for s in figure(1) if s.cell.method == "lora" and s.cell.options)
    if number in (4, 5):
        layout = table(3)
        # Full training has no adapters whose spectrum could be compared.
        rows = [r for r in layout.rows if r.only_scale is None and (number == 4 or r.rank)]
        return tuple(Series(r.label, layout.cell(r, layout.columns[0])) for r in rows)
    raise ValueError(f"no figure {number} with curves; allowed: {', '.join(map(str, FIGURES))}")


def figure_cells(number: int) -> list[Cell]:
    """The cells whose curves a figure shows."""
    return [s.cell for s in figure(number)]
