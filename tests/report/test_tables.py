from __future__ import annotations

from experiments import paper
from experiments.paper import Cell
from experiments.report import tables
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")


def test_better_needs_an_interval():
    mora, lora = (FIXED.setting(Cell("uuid", method, 8)) for method in ("mora", "lora"))
    for seeds, expected in (((0,), "undecided"), ((0, 1, 2), "better")):
        records = [synthetic.record(s, 1e-2, seed) for s in (mora, lora) for seed in seeds]
        table = tables.fill(paper.table(2), Results("laptop", records, FIXED))
        (row,) = (row for row in table.entries if row[0].row.label == "MoRA, r = 8")
        assert row[0].comparison.verdict == expected
        assert (row[0].comparison.interval.low is None) == (expected == "undecided")
