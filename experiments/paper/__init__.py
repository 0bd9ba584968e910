"""The published numbers, and which configuration fills which cell.

A number of the paper is only ever read from `results/paper/paper.json`. A `Cell` speaks of the paper's own ranks (8 and
256, 128 for pretraining); what they are at another scale is the business of `study.cells`.
"""

from .claims import CLAIMS, Claim, ClaimPart, Side, side_value
from .layout import TABLES, Cell, Column, Row, Table, alpha_2r, arithmetic_notes, label, table, table_cells
from .lookup import all_cells, printed
from .names import HIGH, LOW, PRETRAINING, paper_json
from .quantities import Quantity
from .series import FIGURES, PAPER_STEPS, Series, figure, figure_cells

__all__ = [
    "CLAIMS",
    "FIGURES",
    "HIGH",
    "LOW",
    "PAPER_STEPS",
    "PRETRAINING",
    "TABLES",
    "Cell",
    "Claim",
    "ClaimPart",
    "Column",
    "Quantity",
    "Row",
    "Series",
    "Side",
    "Table",
    "all_cells",
    "alpha_2r",
    "arithmetic_notes",
    "figure",
    "figure_cells",
    "label",
    "paper_json",
    "printed",
    "side_value",
    "table",
    "table_cells",
]  # fmt: skip
