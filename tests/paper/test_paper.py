"""The published numbers, and the cells that they belong to."""

from __future__ import annotations

import pytest

from experiments import paper


def test_unknown_tables_and_figures_are_refused():
    with pytest.raises(ValueError, match="allowed: 1, 2, 3, 4, 6, 7"):
        paper.table(5)
    with pytest.raises(ValueError, match="allowed: 1, 2, 3, 4, 5"):
        paper.figure(6)


def test_arithmetic_shows_the_errors_in_the_papers_tables():
    notes = "\n".join(paper.arithmetic_notes(6, 7))
    for slip in ("51.9 in Table 6, 52.3 in Table 1", "52.05", "67.16", "67.24"):
        assert slip in notes
    assert len(paper.arithmetic_notes(6, 7)) == 3


def test_every_published_value_is_in_a_table():
    for number in paper.TABLES:
        table = paper.table(number)
        ours = sorted(v for row in table.rows for v in row.paper_values.values() if v is not None)
        rows = paper.paper_json()[f"table{number}"]["rows"]
        assert ours == sorted(v for row in rows for v in row["values"].values() if v is not None)


def test_every_point_of_the_figures_is_drawn():
    for number in (2, 3):
        series = paper.paper_json()[f"figure{number}"]["series"]
        drawn = {len(s.points) for s in paper.figure(number)}
        assert sum(len(s.points) for s in paper.figure(number)) == sum(
            v is not None for values in series.values() for v in values
        )
        assert drawn
