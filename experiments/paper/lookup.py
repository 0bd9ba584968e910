"""From a cell or a run to what the paper prints for it, and all cells at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from .layout import TABLES, Cell, Column, Row, table, table_cells
from .names import HIGH, LOW, PRETRAINING
from .series import FIGURES, figure_cells


def places(cell: Mapping[str, Any], protocol: Mapping[str, Any]) -> Iterator[tuple[int, Row, Column]]:
    """Where a run stands in the tables: (number, row, column).

    Args:
        cell: The `cell` of a record.
        protocol: The protocol of its task and scale: `ranks` says which of the paper's ranks a rank stands for.
    """
    ranks = protocol.get("ranks") or {}
    stands_for = {ranks.get("low"): LOW, ranks.get("high"): HIGH, None: None}
    rank = stands_for.get(cell["rank"], 0)
    if cell["task"] == "pretrain" and cell["rank"] == protocol.get("rank"):
        rank = PRETRAINING if cell["rank"] else None
    for number in TABLES:
        made = table(number)
        for row, column in itertools.product(made.rows, made.columns):
            wanted = made.cell(row, column)
            if (
                (wanted.task, wanted.method, wanted.rank) == (cell["task"], cell["method"], rank)
                and wanted.operator in (None, cell["operator"])
                and (cell["scale"] != "paper" or (wanted.model or protocol.get("model")) == cell["model"])
            ):
                yield number, row, column


def beside(cell: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What the paper prints for the method, rank and operator of a run: (table and column, value)."""
    found = []
    for number, row, column in places(cell, protocol):
        value = row.published.get(column.name)
        if value is not None:
            found.append((f"Table {number}, {column.label}", value))
    return found


def printed(cell: Cell, metric: str) -> float | None:
    """The final metric that the paper prints for a cell; None where it prints none."""
    for number in TABLES:
        made = table(number)
        for row in made.rows:
            for column in made.columns:
                if column.metric == metric and column.at is None and made.cell(row, column) == cell:
                    return row.published.get(column.name)
    return None


def all_cells(scale: str) -> list[Cell]:
    """The different cells of every table and figure."""
    cells = [c for number in TABLES for c in table_cells(number, scale)]
    return list(dict.fromkeys(cells + [c for number in FIGURES for c in figure_cells(number)]))
