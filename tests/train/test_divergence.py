"""If the loss of a run is no longer finite, its error names the step, and the table counts the run."""

import re

import pytest

from scripts import make_tables

from ..processes import SMOKE, launch


@pytest.mark.slow
@pytest.mark.promise("A run that diverges fails, says at which step, and is counted in the tables.")
def test_from_the_step_to_the_table(tmp_path, counted):
    """The test runs two learning rates. The rate 1e30 diverges, and the table counts diverged runs at any rate."""
    results = tmp_path / "results"
    arguments = ["-m", "method=lora", *SMOKE, "training.learning_rate=1e30,3e-3", f"paths.results={results}"]
    done = launch(*arguments, log=tmp_path / "log")
    assert done.code == 1
    (message,) = done.messages
    assert re.fullmatch(
        r"failed: FloatingPointError: diverged at step \d+: the loss is (nan|inf); traceback: .*\.txt", message
    )
    assert make_tables.main(["--results", str(results), "--scale", "smoke"]) == 0
    tables = {p.name: p.read_text() for p in (results / "tables" / "smoke").glob("table2.*")}
    assert "1 diverged" in tables["table2.md"]
    counted(1, "diverged runs")
