"""Ranks that are told to stop: those that work on are waited for, and those that hang are killed."""

import itertools
import multiprocessing
import os
import signal
import time

import pytest

from experiments.store.records import Store
from experiments.train import spawn


def deaf(ready, seconds: float) -> None:
    """A rank that does not notice SIGTERM for so many seconds, as in a call that waits for another rank."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(seconds)


def start(seconds: float):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=deaf, args=(ready, seconds))
    process.start()
    assert ready.wait(60)
    return process


def test_ranks_that_hang_are_killed_after_the_first_signal(capsys):
    process = start(600)
    spawn.stop([process], 0.2)
    assert process.exitcode == -signal.SIGKILL
    assert "1 of the ranks did not end within 0.2 s and are killed" in capsys.readouterr().err


def test_ranks_that_still_work_are_waited_for():
    process, steps = start(1.5), itertools.count()
    spawn.stop([process], 0.2, lambda: next(steps))
    assert process.exitcode == 0


def test_ranks_are_killed_at_an_interruption():
    process = start(600)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spawn.stop([process], 600, interrupt)
    assert process.exitcode == -signal.SIGKILL


def test_a_step_and_a_byte_of_a_checkpoint_are_activity(tmp_path):
    store, seen = Store(tmp_path), []
    seen.append(spawn.activity(store, "k"))
    store.progress("k").parent.mkdir()
    store.progress("k").write_text('{"step": 1}')
    seen.append(spawn.activity(store, "k"))
    folder = store.checkpoints("k") / "incomplete"
    folder.mkdir(parents=True)
    for size in (1, 2):
        (folder / "optimizer.pt").write_bytes(bytes(size))
        seen.append(spawn.activity(store, "k"))
    assert [a != b for a, b in itertools.pairwise(seen)] == [True] * 3
    os.utime(store.progress("k"))  # the thread of a rank that hangs still does this
    assert spawn.activity(store, "k") == seen[-1]
