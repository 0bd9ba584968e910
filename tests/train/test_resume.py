"""A run that is killed and started again equals an undisturbed run to the bit.

The tests send SIGKILL to real processes. A fork server imports the libraries once, so a process starts at once.
"""

import dataclasses
import functools
import itertools
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest

from experiments import runner
from experiments.store.records import Store, from_json
from experiments.train import callbacks, checkpoints

from ..conftest import compose, some_slow
from ..processes import SMOKE, at_call, die, half_written, outcome, server

SAME_BITS = "A run that is killed continues from its last checkpoint and ends with the same bits as an undisturbed run."
METHODS = ("fft", "lora", "lora_plus", "asylora", "dora", "mora", "relora", "remora")
RESTARTING = ("relora", "remora")
# Restarts at steps 3, 6 and 9; checkpoints at steps 2, 4, 6, ...: one restart falls on a checkpoint, two do not.
COMMON = (
    *SMOKE,
    "training.steps=12",
    "training.log_every=1",
    "training.checkpoint_every=2",
    "training.evaluate_every=5",
)
RESTARTS = ("method.restart_every=3", "method.restart_warmup=1")
# As in pretraining: embeddings, head and norms train as well, and a restart keeps their state in the optimizer.
PRETRAINING = "remora method.train_rest=true"


def overrides(method: str, results: Path) -> list[str]:
    name, *extra = method.split()
    extra += RESTARTS if name in RESTARTING else ()
    return [f"method={name}", f"paths.results={results}", *COMMON, *extra]


def child(arguments: list[str], after: float | None, at: str | None, count: int) -> None:
    """Run a cell. The process dies `after` seconds, or at the `count`-th call of the function `at`."""
    from experiments import runner

    config = compose(*arguments)
    if after is not None:
        threading.Timer(after, die).start()
    if at is not None:
        at_call(at, count, die, after=count % 2 == 1)  # if `count` is odd: right after the call
    runner.run(config)


@pytest.mark.parametrize("limit", [0, 10**6])
def test_a_checkpoint_is_written_after_half_an_hour_too(limit, tmp_path, monkeypatch):
    """However long the steps take, a job that is killed does not begin anew for ever. The bits stay the same."""
    saved = []
    monkeypatch.setattr(callbacks, "LONGEST_UNSAVED", limit)
    monkeypatch.setattr(
        callbacks.Curve, "on_save", lambda self, args, state, control, **_: saved.append(state.global_step)
    )
    steps = ("training.steps=8", "training.log_every=2", "training.checkpoint_every=8", "training.evaluate_every=4")
    record = runner.run(compose("method=remora", f"paths.results={tmp_path}", *SMOKE, *steps, *RESTARTS))
    assert record.status == "finished"
    assert saved == ([8] if limit else [2, 4, 6, 8])
    assert record.metrics["final"] == undisturbed_final(steps)


@functools.cache
def undisturbed_final(steps):
    with tempfile.TemporaryDirectory() as folder:
        return runner.run(compose("method=remora", f"paths.results={folder}", *SMOKE, *steps, *RESTARTS)).metrics[
            "final"
        ]


def test_a_run_that_begins_anew_says_so(tmp_path, capsys):
    arguments = ("method=lora", f"paths.results={tmp_path}", *SMOKE)
    record = runner.run(compose(*arguments))
    store = Store(tmp_path)
    for status, said in (("interrupted", True), ("finished", False)):
        store.write(dataclasses.replace(record, status=status))
        capsys.readouterr()
        runner.run(compose(*arguments))
        assert ("(interrupted) left no checkpoint, so the training begins anew" in capsys.readouterr().out) == said


def start(arguments: list[str], after: float | None = None, at: str | None = None, count: int = 1) -> int:
    """The exit code of a process that runs the cell."""
    process = server.Process(target=child, args=(arguments, after, at, count))
    process.start()
    process.join(240)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Method -> (outcome, seconds) of an undisturbed run."""

    @functools.cache
    def get(method: str):
        results, begin = tmp_path_factory.mktemp(method.split()[0]), time.monotonic()
        assert start(overrides(method, results)) == 0
        return outcome(results), time.monotonic() - begin

    return get


def finish(method: str, results: Path) -> dict:
    assert start(overrides(method, results)) == 0
    return outcome(results)


@pytest.mark.promise(SAME_BITS)
@pytest.mark.parametrize(
    ("method", "kill"), some_slow(itertools.product([*METHODS, PRETRAINING], range(2)), [(PRETRAINING, 0)])
)
def test_killed_at_a_random_moment(method, kill, uninterrupted, tmp_path, counted):
    expected, seconds = uninterrupted(method)
    moment = random.Random(f"{method}-{kill}").uniform(0.2, 0.9) * seconds
    killed = start(overrides(method, tmp_path), after=moment) != 0  # False if the run was faster than usual
    assert finish(method, tmp_path) == expected
    counted(int(killed), "kills")


# While a restart merges layers, before and after it resets the optimizer, while a checkpoint is written, after the
# rename that completes a checkpoint, and before the rename that removes an older checkpoint.
MOMENTS = (
    ("mora.restart.pending_update", 12),
    ("mora.restart.reset_optimizer", 2),
    ("mora.restart.reset_optimizer", 3),
    ("mora.checkpoint.save_base", 3),
    ("mora.checkpoint.save_base", 4),
    ("experiments.files.flush_all", 4),
    ("os.rename", 3),
    ("os.rename", 4),
)
# While the trained model and the finished record are written.
LAST_MOMENTS = (
    ("experiments.train.trainer.save", 1),
    ("experiments.files.flush_all", 7),
    ("experiments.files.write_json", 8),
)


@pytest.mark.promise(SAME_BITS)
@pytest.mark.parametrize(
    ("method", "at", "count"),
    some_slow(
        ((method, *moment) for method, moment in itertools.product(RESTARTING, MOMENTS)),
        [("remora", *MOMENTS[i]) for i in (0, 3, 6)],
    ),
)
def test_killed_within_a_restart(method, at, count, uninterrupted, tmp_path, counted):
    expected, _ = uninterrupted(method)
    assert start(overrides(method, tmp_path), at=at, count=count) == -signal.SIGKILL
    assert finish(method, tmp_path) == expected
    counted(1, "kills")


@pytest.mark.promise(SAME_BITS)
@pytest.mark.parametrize(
    ("method", "at", "count"),
    some_slow(
        ((method, *moment) for method, moment in itertools.product(("fft", "remora"), LAST_MOMENTS)),
        [("fft", *LAST_MOMENTS[0]), ("remora", *LAST_MOMENTS[2])],
    ),
)
def test_killed_after_the_last_step(method, at, count, uninterrupted, tmp_path, counted):
    """The run is killed while it writes the trained model or the finished record."""
    expected, _ = uninterrupted(method)
    assert start(overrides(method, tmp_path), at=at, count=count) == -signal.SIGKILL
    assert finish(method, tmp_path) == expected
    counted(1, "kills")


def test_what_a_kill_after_the_last_record_leaves_is_removed(smoke, tmp_path):
    from experiments import runner

    record = runner.run(smoke("method=lora", *COMMON))
    left = Store(tmp_path / "results").checkpoints(record.key)
    (left / "checkpoint-8").mkdir(parents=True)
    assert runner.run(smoke("method=lora", *COMMON)).status == "finished"
    assert not left.exists()


@pytest.mark.promise(SAME_BITS)
def test_failed_after_a_last_step_within_an_epoch(smoke, tmp_path, monkeypatch, counted):
    """An epoch has two steps and the run has three. transformers would train a fourth step from the last checkpoint."""
    from experiments import runner
    from experiments.tasks.uuid import UuidTask

    arguments = ["method=lora", *COMMON[:4], "training.steps=3", "training.warmup_steps=1", "training.log_every=1"]
    assert runner.run(smoke(*arguments, f"paths.results={tmp_path / 'whole'}")).status == "finished"
    with monkeypatch.context() as patch:
        patch.setattr(UuidTask, "evaluate", lambda *_: 1 / 0)
        assert runner.run(smoke(*arguments)).status == "failed"
    assert runner.run(smoke(*arguments)).status == "finished"
    assert outcome(tmp_path / "results") == outcome(tmp_path / "whole")
    counted(1, "failures")


@pytest.mark.promise(SAME_BITS)
@pytest.mark.parametrize("method", some_slow(["mora", "remora", PRETRAINING], ["mora"]))
def test_killed_again_and_again(method, uninterrupted, tmp_path, counted):
    expected, _ = uninterrupted(method)
    for count in (2, 3, 2):
        assert start(overrides(method, tmp_path), at="os.rename", count=count) == -signal.SIGKILL
    assert finish(method, tmp_path) == expected
    counted(3, "kills")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.promise(SAME_BITS)
@pytest.mark.parametrize("method", ["fft", "mora", "remora"])
def test_killed_ten_times_at_random(method, uninterrupted, tmp_path, counted):
    """After each kill every record and every checkpoint is intact. The moments differ in each run of the test."""
    expected, seconds = uninterrupted(method)
    draw, kills = random.Random(), 0
    for _ in range(10):
        kills += start(overrides(method, tmp_path), after=draw.uniform(0.1, 0.6) * seconds) == -signal.SIGKILL
        for path in tmp_path.glob("runs/*.json"):
            from_json(path.read_bytes())
        for run in tmp_path.glob("checkpoints/*"):
            assert all(checkpoints.damage(c) is None for c in checkpoints.by_step(run))
    assert finish(method, tmp_path) == expected
    assert half_written(tmp_path) == []
    counted(kills, "kills")
