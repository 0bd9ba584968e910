"""Ranks that are told to stop: those that work on are waited for, and those that hang are killed. What ranks print."""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest

from experiments import runner
from experiments.errors import ConfigError, StorageError
from experiments.identity import identity_of
from experiments.spec import ranks, signals
from experiments.store.records import Store
from experiments.train import spawn

from ..processes import the_record

HANGS = "A run whose processes hang ends after the first signal; processes that still work are waited for."
STEPS = 20


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


@pytest.mark.promise(HANGS)
def test_ranks_that_hang_are_killed_after_the_first_signal(capsys, counted):
    process = start(600)
    spawn.stop([process], 0.2)
    assert process.exitcode == -signal.SIGKILL
    assert "1 of the ranks did not end within 0.2 s and are killed" in capsys.readouterr().err
    counted(1, "processes that hang")


@pytest.mark.promise(HANGS)
def test_ranks_that_still_work_are_waited_for(counted):
    process, steps = start(1.5), itertools.count()
    spawn.stop([process], 0.2, lambda: next(steps))
    assert process.exitcode == 0
    counted(1, "processes that work")


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


def run_on_ranks(execute, config):
    """Call `execute` on the ranks of `config`, also where there is one, as a run on several ranks does."""
    store, record = Store(config.paths.results), runner.record_of(config, identity_of(config))
    return spawn.run(execute, config, record, store)


def work_then_hang(config, record, store):
    """A rank that does not notice SIGTERM: it does some steps, and hangs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store.write(record)
    store.progress(record.key).parent.mkdir()
    for step in range(1, STEPS + 1):
        for path in (store.progress(record.key), store.results / "steps"):
            path.write_text(str(step))
        time.sleep(0.15)
    time.sleep(600)


@pytest.mark.promise(HANGS)
def test_a_run_waits_for_ranks_that_work_and_kills_ranks_that_hang(smoke, tmp_path, monkeypatch, capsys, counted):
    steps = tmp_path / "results" / "steps"

    def interrupt_once_it_works():
        while not steps.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(spawn, "HUNG", 1.5)
    threading.Thread(target=interrupt_once_it_works, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_on_ranks(work_then_hang, smoke("method=none"))
    assert steps.read_text() == str(STEPS)  # the steps take twice as long as a rank may hang
    assert "1 of the ranks did not end within 1.5 s and are killed" in capsys.readouterr().err
    assert the_record(tmp_path / "results")["status"] == "interrupted"
    counted(1, "processes that hang")


def finish(record, store):
    record.status, record.cost = "finished", {"trainable_parameters": 1, "seconds": 1.0}
    record.metrics["final"]["char_accuracy"] = 1.0
    store.write(record)
    return record


def get_signals(config, record, store):
    """A rank that gets the signals that a terminal or a scheduler sends to all processes."""
    for number in {*signals.STOPS} - {signal.SIGTERM, signal.SIGXCPU}:
        os.kill(os.getpid(), number)
    return finish(record, store)


def test_a_rank_leaves_signals_to_the_process_that_started_it(smoke):
    assert run_on_ranks(get_signals, smoke("method=none")).status == "finished"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def refuse_the_disk(config, record, store):
    """Ranks whose disk is full before there is a record."""
    raise StorageError("cannot write the rows to cache: No space left on device")


def refuse_a_setting(config, record, store):
    """Ranks whose configuration does not fit."""
    raise ConfigError("task.max_length must be less")


@pytest.mark.parametrize(
    ("execute", "kind", "message"),
    [
        (refuse_the_disk, StorageError, "cannot write the rows to cache: No space left on device"),
        (refuse_a_setting, ConfigError, "task.max_length must be less"),
    ],
)
def test_an_error_without_a_record_is_that_of_the_ranks(execute, kind, message, smoke, tmp_path):
    with pytest.raises(kind, match=f"^{message}$"):
        run_on_ranks(execute, smoke("method=none", "hardware.processes=2"))
    assert not list(tmp_path.rglob("*.json"))


def fail_with_a_full_disk(config, record, store):
    """A rank that fails in its training, and writes the error into the record."""
    record.status = "failed"
    record.error = {"type": "StorageError", "message": "full", "traceback": "failures/k.txt"}
    ranks.fail(record.error)
    store.write(record)
    return record


def test_an_error_that_the_record_holds_is_not_raised(smoke):
    assert run_on_ranks(fail_with_a_full_disk, smoke("method=none")).error["type"] == "StorageError"


def print_a_secret(config, record, store):
    """A rank that prints a secret, and then has a full disk in place of its log."""
    print(f"out {os.environ['MY_SECRET']}", flush=True)
    print(f"err {os.environ['MY_SECRET']}", file=sys.stderr)
    for number in (1, 2):
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    print("lost", flush=True)
    print("lost", file=sys.stderr, flush=True)
    return finish(record, store)


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
@pytest.mark.promise("If what a run prints cannot be written, the run goes on and ends as it would otherwise.")
def test_a_rank_hides_secrets_and_goes_on_if_its_output_is_lost(smoke, monkeypatch, capfd):
    monkeypatch.setenv("MY_SECRET", "correct-horse-battery")
    assert run_on_ranks(print_a_secret, smoke("method=none")).status == "finished"
    out, err = capfd.readouterr()
    assert out == "out [secret]\n"
    assert "err [secret]\n" in err
    assert "correct-horse-battery" not in err
