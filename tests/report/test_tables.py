from __future__ import annotations

from experiments import paper
from experiments.paper import Cell
from experiments.report import tables
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")


SETTINGS = [FIXED.setting(Cell("uuid", method, 8)) for method in ("mora", "lora")]


def mora_at_step_300(records):
    """The entry of MoRA, r = 8, in the first column of Table 2."""
    table = tables.fill(paper.table(2), Results("laptop", records, FIXED))
    (row,) = (row for row in table.entries if row[0].row.label == "MoRA, r = 8")
    return row[0]


def test_better_needs_an_interval():
    for seeds, expected in (((0,), "undecided"), ((0, 1, 2), "better")):
        entry = mora_at_step_300([r for s in SETTINGS for r in synthetic.searched(s, seeds)])
        assert entry.comparison.verdict == expected
        assert (entry.comparison.interval.low is None) == (expected == "undecided")


def test_better_needs_a_rate_between_others():
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    without = [r for r in records if (r.cell["method"], r.cell["learning_rate"]) != ("lora", 1e-2)]
    comparison = mora_at_step_300(without).comparison
    assert comparison.verdict == "undecided"
    assert comparison.doubts == ("LoRA, r = 8: the learning rate 0.003 is the highest that was tried",)
    assert comparison.interval == mora_at_step_300(records).comparison.interval
