"""Every method of conf/method trains within its budget, resumes after a kill, and is exported as it was scored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.spec import methods
from scripts import evaluate, export_adapter

from ..conftest import some_slow
from ..processes import SMOKE, begin, launch

NAMES = [name for name in methods.names() if name not in ("none", "fft")]

# PEFT says that BOFT has no CUDA here and which block OFT took, and torch that SHiRA's sparse tensors are trusted.
EXPECTED_WARNINGS = (
    "ignore:.*CUDA extension:UserWarning",
    "ignore:Setting boft_n_butterfly_factor:UserWarning",
    "ignore:Invalid `oft_block_size`:UserWarning",
    "ignore:Sparse invariant checks:UserWarning",
)


def expected_warnings(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test of every method: the warnings that PEFT and torch give about some of the methods are no errors."""
    for warning in EXPECTED_WARNINGS:
        test = pytest.mark.filterwarnings(warning)(test)
    return test


def check(method: str, arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """Train at smoke scale, once whole and once with a kill, export and score the model. Gives the record."""
    run = [*arguments, f"method={method}", "task=uuid", "training.record_spectrum=true", *SMOKE]
    whole, killed = folder / "whole", folder / "killed"
    done = launch(*run, f"paths.results={whole}", log=folder / "log")
    assert done.code == 0, done.err
    assert f"uuid-smoke-{method}-r8-" in done.out
    process = begin(*run, f"paths.results={killed}", log=folder / "log")
    while not list(killed.glob("checkpoints/*/checkpoint-*")):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert launch(*run, f"paths.results={killed}", log=folder / "log").code == 0
    (record,), (resumed,) = ([*(results / "runs").glob("*.json")] for results in (whole, killed))
    values = json.loads(record.read_text())
    assert values["metrics"]["spectrum"]
    assert json.loads(resumed.read_text())["metrics"] == values["metrics"]
    results = ["--results", str(whole)]
    capsys.readouterr()
    assert export_adapter.main([record.stem, str(folder / "out"), *results]) == 0
    assert "a whole model" in capsys.readouterr().out
    assert (folder / "out" / "model.safetensors").is_file()
    assert evaluate.main([record.stem, *results]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal"
    return values


@expected_warnings
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", some_slow(NAMES, ["miss"]))
def test_a_method_trains_within_its_budget_resumes_and_is_exported(method, tmp_path, capsys):
    cost = check(method, [], tmp_path, capsys)["cost"]
    assert 0 < cost["trainable_parameters"] <= cost["budget_parameters"]
