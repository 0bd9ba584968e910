"""Published numbers are read from paper.json, and nowhere typed by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments import paper

from .. import synthetic

ROOT = Path(__file__).parent.parent.parent
OURS = ("plan", "make_tables", "make_figures", "make_report")


def published_numbers() -> set[str]:
    """Every value of a published table that is unlikely to stand in code for another reason."""
    rows = [row for number in synthetic.TABLES for row in paper.paper_json()[f"table{number}"]["rows"]]
    values = {str(v) for row in rows for v in row["values"].values() if v is not None}
    return {v for v in values if not v.endswith(".0")}


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "experiments" / "paper").glob("*.py")),
        *sorted((ROOT / "experiments" / "report").glob("*.py")),
        *(ROOT / "scripts" / f"{n}.py" for n in OURS),
    ],
    ids=lambda p: p.name,
)
def test_no_published_number_is_typed_by_hand(path):
    assert not published_numbers() & set(re.findall(r"\d+\.\d+", path.read_text()))
