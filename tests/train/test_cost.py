"""The cost in a record."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch import nn

from experiments import tasks
from experiments.train import cost

from ..conftest import ROOT

MiB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems the peak counts from the start of the process")
def test_the_peak_is_the_peak_of_this_cell():
    """The memory of earlier cells in the same process does not count, nor does the memory of the parent process."""
    held = bytearray(400 * MiB)
    code = (
        "from experiments.train import peak_memory\n"
        "before = bytearray(300 * 2**20); del before\n"
        "peak_memory.reset(); start = peak_memory.peak()\n"
        "now = bytearray(100 * 2**20); del now\n"
        "print(start, peak_memory.peak())\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    start, peak = map(int, printed.split())
    assert start < 200 * MiB
    assert 95 * MiB < peak - start < 110 * MiB
    assert len(held)


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(13, 16, 5), (13, 4, 6), (12, 4, 6), (13, 4, 0), (1, 1, 3)])
def test_the_examples_are_those_that_the_trainer_takes(count, batch_size, steps):
    """The Trainer keeps the last batch of a pass, which may be smaller."""
    sizes = itertools.cycle([len(range(count)[i : i + batch_size]) for i in range(0, count, batch_size)])
    assert tasks.examples_taken(count, batch_size, steps) == sum(itertools.islice(sizes, steps))


@pytest.mark.parametrize(("earlier", "expected"), [([], 7), ([9, 5], 9), ([3], 7)])
def test_the_peak_is_that_of_all_sessions(monkeypatch, tmp_path, earlier, expected):
    monkeypatch.setattr(cost.peak_memory, "peak", lambda device: 7)
    log = [{"step": i + 1, "seconds": float(i), "peak_memory_bytes": peak} for i, peak in enumerate(earlier)]
    state = SimpleNamespace(log_history=log, global_step=1)
    config = SimpleNamespace(training=SimpleNamespace(batch_size=2))
    adapted = SimpleNamespace(model=nn.Linear(2, 2), budget=None)
    prepared = SimpleNamespace(train=[{"input_ids": [1, 2, 3]}] * 2, mean_length=None)
    found = cost.Meter(adapted, SimpleNamespace(device="cpu")).read(state, prepared, config, tmp_path)
    assert (found["peak_memory_bytes"], found["tokens"]) == (expected, 6)
