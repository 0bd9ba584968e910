"""A run whose loss is no longer finite: its error names the step, and the table counts the run."""

import re
import shutil

import pytest

from experiments.spec import compose
from scripts import make_tables

from ..conftest import ROOT
from ..processes import SMOKE, launch


@pytest.mark.slow
@pytest.mark.promise("A run that diverges fails, says at which step, and is counted in the tables.")
def test_from_the_step_to_the_table(tmp_path, monkeypatch, counted):
    """A search over two learning rates, of which 1e30 diverges; no learning rate of the project does."""
    results, conf = tmp_path / "results", tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    laptop = (conf / "protocol" / "uuid_laptop.yaml").read_text()
    (conf / "protocol" / "uuid_laptop.yaml").write_text(
        laptop.replace(
            "r8: {use: 3e-3, candidates: [1e-3, 3e-3,", "r8: {use: 3e-3, candidates: [1e30, 3e-3,", 1
        )  # LoRA's
    )
    arguments = ["-m", "method=lora", *SMOKE, "training.learning_rate=1e30,3e-3", f"paths.results={results}"]
    done = launch(*arguments, log=tmp_path / "log")
    assert done.code == 1
    (message,) = done.said
    assert re.fullmatch(r"failed: FloatingPointError: diverged at step \d+: the loss is (nan|inf)", message)
    monkeypatch.setattr(compose, "CONF", conf)
    assert make_tables.main(["--results", str(results), "--scale", "smoke"]) == 0
    tables = {p.name: p.read_text() for p in (results / "tables" / "smoke").glob("table2.*")}
    assert "1 diverged" in tables["table2.md"]
    counted(1, "diverged runs")
