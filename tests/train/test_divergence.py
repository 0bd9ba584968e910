"""If the loss of a run is no longer finite, its error names the step, and the table counts the run."""

import re

import pytest

from experiments import runner
from experiments.cli import summary
from experiments.store.folder import read_records
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


@pytest.mark.promise("If the last update of one cell of a sweep diverges, the other cells run, also in a second sweep.")
def test_the_last_update_in_a_sweep(tmp_path, counted):
    """The second sweep reads the record of the first: the diverged cell runs and fails again, the other is finished."""
    results = tmp_path / "results"
    short = ("training.steps=1", "training.warmup_steps=0", "training.learning_rate=1e25,3e-3")
    for again in (False, True):
        done = launch("-m", "method=lora", *SMOKE, *short, f"paths.results={results}", log=tmp_path / f"log{again}")
        assert done.code == 1
        (message,) = done.messages
        assert re.fullmatch(
            r"failed: FloatingPointError: diverged at step 1: \w+ is (nan|inf); traceback: .*\.txt", message
        )
        assert ("finished before" in done.out) == again
        records, problems = read_records(results)
        assert sorted(record.status for record in records) == ["failed", "finished"]
        assert problems == []
    counted(2, "diverged runs")


@pytest.mark.promise("A run whose last update diverges fails, and the same command fails again in the same way.")
def test_the_last_update(smoke, capsys, counted):
    """No loss follows the last update, so only the final metrics show that the update diverged."""
    config = smoke("method=lora", "training.steps=1", "training.warmup_steps=0", "training.learning_rate=1e25")
    for _ in range(2):
        record = runner.run(config)
        assert record.status == "failed"
        assert re.fullmatch(r"diverged at step 1: \w+ is (nan|inf)", record.error["message"])
        assert record.error["type"] == "FloatingPointError"
        summary.show(record, config)
    assert "failed: FloatingPointError" in capsys.readouterr().err
    counted(2, "diverged runs")
