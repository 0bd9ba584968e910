"""Signals to real runs: the first signal saves a checkpoint, the second ends the run, the same command continues."""

import functools
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from experiments import files, runner
from experiments.identity import identity_of
from experiments.spec import ranks, signals
from experiments.store.records import Store
from experiments.train.interruption import StopWithCheckpoint
from experiments.train.recording import Recording

from ..conftest import some_slow
from ..faults.causes import RUN, WRITES
from ..processes import SMOKE, at_call, launch, the_record
from . import on_ranks

LIMIT = 240  # seconds; the machine may be busy with other tests
# The run is longer than any test, so a signal ends it, and the signal's checkpoint is the only one.
LONG = ("training.steps=4000", "training.evaluate_every=4000", "training.checkpoint_every=4000")

SIGNALS = [getattr(signal, f"SIG{name}") for name in ("TERM", "USR1", "USR2", "INT", "HUP", "QUIT", "XCPU")]


FIRST = "At the first signal a run keeps a checkpoint, and the exit code is 130."


def start(results: Path, *arguments: str, **options) -> subprocess.Popen:
    return on_ranks.start(["method=mora", *SMOKE, *arguments, f"paths.results={results}"], **options)


def wait_for(text: bytes, process: subprocess.Popen) -> None:
    """Read the standard error of the process until the pattern `text` occurs."""
    assert process.stderr
    read, deadline = b"", time.monotonic() + LIMIT
    while not re.search(text, read):
        assert time.monotonic() < deadline
        part = os.read(process.stderr.fileno(), 4096)
        assert part, f"ended without {text!r}: {read!r}"
        read += part


def record(results: Path) -> dict:
    assert not list((results / "runs").glob(".*"))  # no half-written record
    return the_record(results)


def checkpoint_steps(results: Path) -> list[int]:
    return sorted(int(p.name.split("-")[1]) for p in results.glob("checkpoints/*/checkpoint-*"))


@pytest.mark.promise(FIRST)
@pytest.mark.parametrize("number", some_slow(SIGNALS, [signal.SIGTERM]))
def test_the_first_signal_keeps_a_checkpoint_and_exits_130(number, tmp_path, counted):
    process = start(tmp_path, *LONG)
    wait_for(b"loss=", process)
    assert checkpoint_steps(tmp_path) == []
    process.send_signal(number)
    assert_stops_with_a_checkpoint(process, number, tmp_path)
    counted(1, "signals")


@pytest.mark.slow
@pytest.mark.promise(FIRST)
@pytest.mark.parametrize("number", [number for number in SIGNALS if number != signal.SIGXCPU])
def test_a_signal_to_all_processes_of_a_run_keeps_a_checkpoint(number, tmp_path, counted):
    """The ranks get the signal from the system, and then the SIGTERM of the process that started them."""
    two = ("hardware=ddp", "hardware.device=cpu", "hardware.processes=2")
    process = start(tmp_path, *LONG, *two, start_new_session=True)
    wait_for(b"loss=", process)
    os.killpg(process.pid, number)
    assert_stops_with_a_checkpoint(process, signal.SIGTERM, tmp_path)
    counted(1, "signals")


def assert_stops_with_a_checkpoint(process: subprocess.Popen, number: signal.Signals, tmp_path: Path) -> None:
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, err
    assert f"{number.name}: stops with a checkpoint, within 2 steps" in err
    assert "the same command goes on from the last checkpoint" in err
    assert record(tmp_path)["status"] == "interrupted"
    (step,) = checkpoint_steps(tmp_path)
    assert 0 < step < 4000
    assert step % 2 == 0  # a logged step


@pytest.mark.slow
def test_the_second_sigint_stops_at_once(tmp_path):
    # The checkpoint waits for a step that is logged, and the only such step is the last one.
    process = start(tmp_path, *LONG, "training.log_every=4000")
    wait_for(rb"<\d", process)  # the bar shows the remaining time, so a step is done
    process.send_signal(signal.SIGINT)
    wait_for(b"once more stops at once", process)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert record(tmp_path)["status"] == "interrupted"
    assert checkpoint_steps(tmp_path) == []
    assert "the same command goes on from the last checkpoint, if there is one" in err


def test_a_signal_at_the_last_write_waits_for_the_write(smoke, monkeypatch, tmp_path):
    config, write_json = smoke("method=none"), files.write_json

    def interrupted(path, value):
        signal.raise_signal(signal.SIGTERM)
        write_json(path, value)

    monkeypatch.setattr(files, "write_json", interrupted)
    store, new = Store(config.paths.results), runner.record_of(config, identity_of(config))
    with (
        signals.handled_by(signal.default_int_handler),
        pytest.raises(KeyboardInterrupt),
        Recording(config, new, store),
    ):
        pass
    assert record(tmp_path / "results")["status"] == "finished"


def test_a_signal_after_the_last_checkpoint_stops_at_the_end_of_the_training(smoke):
    callback = StopWithCheckpoint(smoke("method=lora"))

    def train():
        with callback.listening():
            signal.raise_signal(signal.SIGTERM)
            callback.on_save(None, None, None)  # the ranks have not agreed yet, so this checkpoint stops nothing
            went_on.append(True)

    went_on = []
    with signals.handled_by(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        train()
    assert went_on


@pytest.mark.parametrize(("count", "expected"), [(1, [signal.SIGTERM]), (2, [])])
def test_one_of_several_ranks_does_nothing_at_the_second_signal(count, expected, smoke, monkeypatch):
    """The second signal may be the first one again, passed on by the process that started the rank."""
    monkeypatch.setattr(ranks, "current", lambda: ranks.Rank(count=count))
    callback, stopped = StopWithCheckpoint(smoke("method=lora")), []
    callback.handlers = {signal.SIGTERM: lambda number, frame: stopped.append(number)}
    for _ in range(2):
        callback.handle(signal.SIGTERM, None)
    assert stopped == expected


@pytest.mark.slow
@pytest.mark.promise("A run that gets a signal while it writes its last record is finished.")
def test_a_run_that_gets_a_signal_at_its_last_write_is_finished(tmp_path, counted):
    arguments = [*RUN, f"paths.results={tmp_path / 'results'}"]
    stop = functools.partial(signal.raise_signal, signal.SIGTERM)
    before = functools.partial(at_call, *WRITES["the last record"], stop)
    assert launch(*arguments, log=tmp_path / "log", before=before).code == 130
    assert record(tmp_path / "results")["status"] == "finished"
    assert not list(tmp_path.glob("results/checkpoints/*"))
    counted(1, "signals at the last write")


@pytest.mark.slow
def test_signals_while_it_saves_leave_nothing_half_written(tmp_path):
    """The run gets a signal every 10 ms, three times. The same command then gives the result of an undisturbed run."""
    steps = ("training.steps=40", "training.evaluate_every=20", "training.checkpoint_every=2")
    for _ in range(3):
        process = start(tmp_path / "disturbed", *steps)
        wait_for(b"step/s", process)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        process.communicate()
        assert process.returncode in (130, -signal.SIGINT)
        assert record(tmp_path / "disturbed")["status"] in ("running", "interrupted")
    for results in (tmp_path / "disturbed", tmp_path / "undisturbed"):
        process = start(results, *steps)
        process.communicate(timeout=LIMIT)
        assert process.returncode == 0
    assert record(tmp_path / "disturbed")["metrics"] == record(tmp_path / "undisturbed")["metrics"]


@pytest.mark.slow
def test_a_preempted_run_continues_to_the_same_result(tmp_path):
    steps = ("training.steps=40", "training.evaluate_every=10", "training.checkpoint_every=40")
    process = start(tmp_path / "preempted", *steps)
    wait_for(b"8/40", process)
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    (step,) = checkpoint_steps(tmp_path / "preempted")
    assert 8 <= step < 40
    for results in (tmp_path / "preempted", tmp_path / "whole"):
        process = start(results, *steps)
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
    assert record(tmp_path / "preempted")["metrics"] == record(tmp_path / "whole")["metrics"]
