"""Signals to real runs: a checkpoint at the first, an end at the second, and the same result when run again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..conftest import ROOT

PATIENCE = 240  # seconds; machines that test are busy
OWN = ("method=mora", "scale=smoke", "logger=none", "hardware=cpu", "hardware.threads=1")
# Longer than any test: the run ends by a signal. No checkpoint but the one that a signal causes.
LONG = ("training.steps=4000", "training.evaluate_every=4000", "training.checkpoint_every=4000")


def start(results: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run.py"), *OWN, *arguments, f"paths.results={results}"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def wait_for(text: bytes, process: subprocess.Popen) -> None:
    """Read what the process prints until `text` comes, a pattern."""
    assert process.stderr
    read, deadline = b"", time.monotonic() + PATIENCE
    while not re.search(text, read):
        assert time.monotonic() < deadline
        part = os.read(process.stderr.fileno(), 4096)
        assert part, f"ended without {text!r}: {read!r}"
        read += part


def record(results: Path) -> dict:
    (path,) = (results / "runs").glob("*.json")
    assert not list(path.parent.glob(".*"))  # no half of another one beside it
    return json.loads(path.read_text())


def kept(results: Path) -> list[int]:
    return sorted(int(p.name.split("-")[1]) for p in results.glob("checkpoints/*/checkpoint-*"))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGUSR2,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_the_first_signal_keeps_a_checkpoint_and_exits_130(number, tmp_path):
    process = start(tmp_path, *LONG)
    wait_for(b"loss=", process)
    assert kept(tmp_path) == []
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert f"{number.name}: stops with a checkpoint, within 2 steps".encode() in err
    assert b"the same command goes on from there" in err
    assert record(tmp_path)["status"] == "interrupted"
    (step,) = kept(tmp_path)
    assert 0 < step < 4000
    assert step % 2 == 0  # a logged step


def test_the_second_sigint_stops_at_once(tmp_path):
    # The next logged step, and with it the checkpoint, is far away.
    process = start(tmp_path, *LONG, "training.log_every=4000")
    wait_for(rb"<\d", process)  # the bar has a time to go: a step is done
    process.send_signal(signal.SIGINT)
    wait_for(b"once more stops at once", process)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert record(tmp_path)["status"] == "interrupted"
    assert kept(tmp_path) == []


@pytest.mark.slow
def test_a_signal_while_it_saves_leaves_no_half_of_anything(tmp_path):
    """Signals rain on the run from its first step to its end; the same command then ends as one left in peace."""
    steps = ("training.steps=40", "training.evaluate_every=20", "training.checkpoint_every=2")
    for _ in range(3):
        process = start(tmp_path / "rain", *steps)
        wait_for(b"step/s", process)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        process.communicate()
        assert process.returncode in (130, -signal.SIGINT)
        assert record(tmp_path / "rain")["status"] in ("running", "interrupted")
    for results in (tmp_path / "rain", tmp_path / "peace"):
        process = start(results, *steps)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert record(tmp_path / "rain")["metrics"] == record(tmp_path / "peace")["metrics"]


@pytest.mark.slow
def test_a_preempted_run_goes_on_to_the_same_end(tmp_path):
    steps = ("training.steps=40", "training.evaluate_every=10", "training.checkpoint_every=40")
    process = start(tmp_path / "preempted", *steps)
    wait_for(b"8/40", process)
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    (step,) = kept(tmp_path / "preempted")
    assert 8 <= step < 40
    for results in (tmp_path / "preempted", tmp_path / "whole"):
        process = start(results, *steps)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
    assert record(tmp_path / "preempted")["metrics"] == record(tmp_path / "whole")["metrics"]
