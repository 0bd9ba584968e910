"""From a cell or a run to what the paper prints for it, and all cells at once."""

from __future__ import annotations

from .layout import TABLES, Cell, table, table_cells
from .series import FIGURES, figure_cells


def printed(cell: Cell, metric: str) -> float | None:
    """The final metric that the paper prints for a cell; None where it prints none."""
    for number in TABLES:
        layout = table(number)
        for row in layout.rows:
            for column in layout.columns:
                if column.metric == metric and column.at is None and layout.cell(row, column) == cell:
                    return row.paper_values.get(column.name)
    return None


def all_cells(scale: str) -> list[Cell]:
    """The different cells of every table and figure."""
    cells = [c for number in TABLES for c in table_cells(number, scale)]
    return list(dict.fromkeys(cells + [c for number in FIGURES for c in figure_cells(number)]))
