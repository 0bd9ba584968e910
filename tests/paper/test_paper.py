"""The published numbers, and the cells that they belong to."""

from __future__ import annotations

import pytest

from experiments import paper

UUID = {"ranks": {"low": 4, "high": 32}}


def beside(protocol=UUID, **cell):
    known = {"task": "uuid", "method": "mora", "rank": 4, "operator": "sharing", "scale": "laptop", "model": "tiny"}
    return paper.beside(known | cell, protocol)


@pytest.mark.parametrize(
    ("cell", "row"),
    [({"rank": 4}, ("mora", 8)), ({"rank": 32}, ("mora", 256)), ({"method": "fft", "rank": None}, ("fft", None))],
)
def test_a_run_is_shown_beside_its_row(cell, row):
    rows = {(r["method"], r["rank"]): r["values"] for r in paper.published()["table2"]["rows"]}
    assert [v for _, v in beside(**cell)] == list(rows[row].values())


def test_a_rank_that_stands_for_none_of_the_papers_has_no_value():
    assert beside(rank=5) == []


def test_operators_have_rows_of_their_own():
    labels = {label for label, _ in beside(task="math", operator="truncation")}
    assert "Table 4, GSM8K, r = 8" in labels
    assert "Table 4, GSM8K, r = 8" not in {label for label, _ in beside(task="math", operator="auto")}


def test_pretraining_has_one_rank():
    assert {label for label, _ in beside({"rank": 6}, task="pretrain", method="lora", rank=6, operator=None)} == {
        "Table 3, 250M",
        "Table 3, 1.3B",
    }


def test_unknown_tables_and_figures_are_refused():
    with pytest.raises(ValueError, match="allowed: 1, 2, 3, 4, 6, 7"):
        paper.table(5)
    with pytest.raises(ValueError, match="allowed: 1, 2, 3, 4, 5"):
        paper.figure(6)


def test_the_papers_slips_are_found_by_arithmetic():
    notes = "\n".join(paper.arithmetic_notes(6, 7))
    for slip in ("51.9 in Table 6, 52.3 in Table 1", "52.05", "67.16", "67.24"):
        assert slip in notes
    assert len(paper.arithmetic_notes(6, 7)) == 3


def test_every_published_value_is_in_a_table():
    for number in paper.TABLES:
        made = paper.table(number)
        ours = sorted(v for row in made.rows for v in row.published.values() if v is not None)
        rows = paper.published()[f"table{number}"]["rows"]
        assert ours == sorted(v for row in rows for v in row["values"].values() if v is not None)


def test_every_point_of_the_figures_is_drawn():
    for number in (2, 3):
        series = paper.published()[f"figure{number}"]["series"]
        drawn = {len(s.points) for s in paper.figure(number)}
        assert sum(len(s.points) for s in paper.figure(number)) == sum(
            v is not None for values in series.values() for v in values
        )
        assert drawn
