"""The file that says how far a running run is, and what a reader concludes from it."""

import json
import os
import socket
import subprocess
import time

import pytest

from experiments.store import heartbeats, overview
from experiments.store.heartbeats import SILENCE, Heartbeat, read
from experiments.store.records import Record, Store

from .. import synthetic

HERE = socket.gethostname()


def record(name="k", status="running") -> Record:
    return synthetic.bare(f"run-{name}", status)


KEY = record().key


@pytest.fixture
def heartbeat(tmp_path):
    return Heartbeat(Store(tmp_path).progress(KEY), record(), steps=100)


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock of the module, which stands still until the test moves it."""
    now = [1000.0]
    monkeypatch.setattr("experiments.store.heartbeats.time.monotonic", lambda: now[0])
    return now


def test_the_file_says_how_far_the_run_is_until_the_run_ends(heartbeat):
    heartbeat.start()
    heartbeat.beat(stage="training", step=7, loss=float("nan"), learning_rate=1e-3)
    progress = read(heartbeat.path).progress
    assert (progress.key, progress.name, progress.step, progress.steps) == (KEY, "run-k", 7, 100)
    assert (progress.loss, progress.learning_rate) == (None, 1e-3)  # JSON has no NaN
    assert (progress.host, progress.pid) == (HERE, os.getpid())
    assert progress.user
    heartbeat.stop()
    assert os.listdir(heartbeat.path.parent) == []
    assert not heartbeat.thread.is_alive()
    assert read(heartbeat.path) is None


def test_the_file_is_written_at_most_every_two_seconds_or_with_a_new_stage(heartbeat, clock):
    heartbeat.beat(step=1)
    clock[0] += 1.9
    heartbeat.beat(step=2)
    assert read(heartbeat.path).progress.step == 1
    heartbeat.beat(stage="measuring", step=3)
    assert read(heartbeat.path).progress.step == 3
    clock[0] += 2
    heartbeat.beat(loss=0.5)
    assert read(heartbeat.path).progress.loss == 0.5


def test_a_disk_that_does_not_take_the_file_is_warned_of_once(tmp_path, clock, capsys):
    (tmp_path / "progress").touch()
    heartbeat = Heartbeat(Store(tmp_path).progress(KEY), record(), steps=100)
    heartbeat.start()
    for _ in range(3):
        clock[0] += 2
        heartbeat.beat(step=1)
    heartbeat.stop()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: {heartbeat.path} cannot be written, and the run goes on: File exists"


def test_a_run_that_measures_for_long_still_shows_that_it_lives(heartbeat, monkeypatch):
    monkeypatch.setattr(heartbeats, "TOUCH_EVERY", 0.01)
    heartbeat.start()
    os.utime(heartbeat.path, (0, 0))
    deadline = time.monotonic() + 30
    while read(heartbeat.path).age > SILENCE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    heartbeat.stop()


def put(results, name="k", age=0.0, **changes):
    """Write a sign of life that is `age` seconds old."""
    heartbeat = Heartbeat(Store(results).progress(record(name).key), record(name), steps=100)
    heartbeat.beat(stage="training", **changes)
    os.utime(heartbeat.path, (time.time() - age,) * 2)
    return read(heartbeat.path)


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_on_this_host_the_process_decides_and_on_another_host_the_age(tmp_path):
    assert put(tmp_path, age=10 * SILENCE).alive
    assert not put(tmp_path, pid=ended_process()).alive
    assert not put(tmp_path, born=1).alive  # the number now belongs to another process
    assert put(tmp_path, host="elsewhere", pid=ended_process(), age=SILENCE - 60).alive
    assert not put(tmp_path, host="elsewhere", age=SILENCE + 60).alive


def test_a_process_that_has_ended_and_was_not_asked_for_its_end_is_no_run(tmp_path):
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 30
    while heartbeats.birth(process.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert heartbeats.exists(process.pid)
    assert not put(tmp_path, pid=process.pid).alive
    process.wait()


@pytest.mark.parametrize("text", ["", "[]", '{"key": "k"}', '{"a newer": "field"}'])
def test_a_file_of_another_version_is_no_sign(text, tmp_path):
    path = tmp_path / "progress" / "k.json"
    path.parent.mkdir()
    path.write_text(text)
    assert read(path) is None


def test_a_file_with_an_entry_of_another_version_is_a_sign(heartbeat):
    heartbeat.beat(stage="training", step=7)
    values = json.loads(heartbeat.path.read_text())
    assert "seconds" not in values
    heartbeat.path.write_text(json.dumps(values | {"seconds": 3.0, "of a newer version": None}))
    assert read(heartbeat.path).progress == heartbeat.progress


@pytest.mark.parametrize(
    ("status", "sign", "state"),
    [
        ("finished", None, "finished"),
        ("finished", {}, "finished"),  # the process is about to remove its file
        ("failed", None, "failed"),
        ("failed", {}, "running"),  # the run was started again, and loads its model
        ("failed", {"born": 1}, "failed"),
        ("running", {}, "running"),
        ("running", {"born": 1}, "interrupted"),
        ("running", None, "interrupted"),
        ("interrupted", None, "interrupted"),
        (None, {}, "running"),
        (None, {"born": 1}, "interrupted"),
    ],
)
def test_the_state_of_a_run(status, sign, state, tmp_path):
    if status:
        Store(tmp_path).write(record(status=status))
    if sign is not None:
        put(tmp_path, **sign)
    (run,), problems = overview.Overview(tmp_path).read()
    assert (run.key, run.name, run.state, problems) == (KEY, "run-k", state, [])
    assert 0 <= run.age < 60


def test_a_record_is_read_again_when_its_file_changes(tmp_path, monkeypatch):
    reads = []
    original = overview.from_file
    monkeypatch.setattr(overview, "from_file", lambda path: reads.append(path) or original(path))
    store, view = Store(tmp_path), overview.Overview(tmp_path)
    store.write(record(status="failed"))
    for _ in range(3):
        (run,), _ = view.read()
    assert (run.state, len(reads)) == ("failed", 1)
    store.write(record(status="finished"))
    (run,), _ = view.read()
    assert (run.state, len(reads)) == ("finished", 2)


def test_missing_cells_are_those_that_left_nothing(tmp_path):
    Store(tmp_path).write(record("a", "failed"))
    put(tmp_path, "b")
    (tmp_path / "runs" / "c.json").write_text(json.dumps({"schema": 99}))
    states, problems = overview.Overview(tmp_path).read()
    cells = [(f"run-{name}", record(name).key) for name in ("a", "b", "d")]
    assert overview.missing(cells, states) == cells[2:]
    assert len(problems) == 1
