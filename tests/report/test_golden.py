"""The small synthetic set, as the reader sees it, letter by letter."""

from __future__ import annotations

import pytest

from experiments import paper
from experiments.report import findings, latex, markdown, tables


@pytest.mark.parametrize("number", [1, 2, 3])
def test_table(small, golden, number):
    made = tables.make(paper.table(number), small)
    golden(f"table{number}.md", markdown.page(made))
    golden(f"table{number}.tex", latex.fragment(made))
    golden(f"table{number}.csv", tables.frame(made).to_csv(index=False, lineterminator="\n"))


def test_findings(small, golden):
    golden("FINDINGS.md", findings.page([small]))
