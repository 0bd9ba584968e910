"""The published numbers, and which configuration fills which cell.

A number of the paper is only ever read from `results/paper/paper.json`. A `Cell` speaks of the paper's own ranks (8 and
256, 128 for pretraining); what they are at another scale is the business of `aggregate.protocol`.
"""

from .layout import ONE_SCALE, TABLES, Cell, Column, Row, Table, arithmetic_notes, table, table_cells
from .lookup import all_cells, beside, places, printed
from .names import HIGH, LOW, METHODS, PRETRAINING, SCALES, published
from .series import FIGURES, PAPER_STEPS, PROJECTIONS, Series, figure, figure_cells

__all__ = [
    "FIGURES", "HIGH", "LOW", "METHODS", "ONE_SCALE", "PAPER_STEPS", "PRETRAINING", "PROJECTIONS", "SCALES", "TABLES",
    "Cell", "Column", "Row", "Series", "Table", "all_cells", "arithmetic_notes", "beside", "figure", "figure_cells",
    "places", "printed", "published", "table", "table_cells",
]  # fmt: skip
