"""The cost in a record."""

import subprocess
import sys

import pytest

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
