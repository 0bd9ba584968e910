"""The tables and findings of the small synthetic set are, letter by letter, the files in golden/."""

from __future__ import annotations

import pytest

from experiments.report import findings, latex, markdown, tables
from experiments.study import study_file


@pytest.mark.parametrize("number", [1, 2, 3])
def test_table(small, golden, number):
    table = tables.fill(study_file.get(f"table{number}"), small)
    golden(f"table{number}.md", markdown.page(table))
    golden(f"table{number}.tex", latex.fragment(table))
    golden(f"table{number}.csv", tables.frame(table).to_csv(index=False, lineterminator="\n"))


def test_findings(small, golden):
    golden("FINDINGS.md", findings.page([(small, [study_file.get(f"table{number}") for number in (1, 2, 3)])]))
