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
