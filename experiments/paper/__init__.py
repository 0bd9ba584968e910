"""The published numbers, and the claims that rest on them.

A number of the paper is only ever read from `results/paper/paper.json`. A `Cell` speaks of the paper's own ranks (8 and
256, 128 for pretraining); what they are at another scale is the business of `study.cells`.
"""

from . import published
from .cell import Cell, alpha_2r, label
from .claims import CLAIMS, Claim, ClaimPart, Side
from .published import HIGH, LOW, PRETRAINING, paper_json
from .quantities import Quantity

__all__ = [
    "CLAIMS",
    "HIGH",
    "LOW",
    "PRETRAINING",
    "Cell",
    "Claim",
    "ClaimPart",
    "Quantity",
    "Side",
    "alpha_2r",
    "label",
    "paper_json",
    "published",
]
