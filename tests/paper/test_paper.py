"""The published numbers, and the cells that they belong to."""

from __future__ import annotations

import pytest

from experiments import paper
from experiments.errors import ConfigError
from experiments.paper import published
from experiments.study import study_file

from ..synthetic import TABLES


def test_unknown_tables_and_figures_are_refused():
    for name in ("table5", "figure6"):
        with pytest.raises(ConfigError, match=f"no study '{name}'; allowed: .*figure5, .*table7"):
            study_file.get(name)


def test_arithmetic_shows_the_errors_in_the_papers_tables():
    notes = published.arithmetic_notes("table6", "table7")
    for slip in ("51.9 in Table 6, 52.3 in Table 1", "52.05", "67.16", "67.24"):
        assert slip in "\n".join(notes)
    assert len(notes) == 3


@pytest.mark.parametrize("number", TABLES)
def test_every_published_value_is_in_a_table(number):
    table = study_file.get(f"table{number}")
    columns = {column.name for column in table.columns}
    ours = sorted(v for r in table.rows for name, v in r.paper_values.items() if v is not None and name in columns)
    rows = paper.paper_json()[f"table{number}"]["rows"]
    assert ours == sorted(v for row in rows for v in row["values"].values() if v is not None)


@pytest.mark.parametrize("number", [2, 3])
def test_every_point_of_the_figures_is_drawn(number):
    series = paper.paper_json()[f"figure{number}"]["series"]
    drawn = [row.points for row in study_file.get(f"figure{number}").rows]
    assert sum(map(len, drawn)) == sum(v is not None for values in series.values() for v in values) > 0
