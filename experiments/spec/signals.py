"""The signals that stop a run."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Ctrl-C of a user; the end of a job; the warnings of SLURM that a job's time is nearly over or its node is needed; the
# end of a terminal; the key of a terminal that ends a program; the end of the processor time that a limit allows.
STOPS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU),
)
IGNORABLE = (signal.SIGHUP, signal.SIGQUIT)  # nohup starts a process that ignores SIGHUP; the process goes on doing so


def handled() -> list[signal.Signals]:
    """The signals that stop a run in this process."""
    return [stop for stop in STOPS if stop not in IGNORABLE or signal.getsignal(stop) is not signal.SIG_IGN]


@contextlib.contextmanager
def handled_by(handler: Callable[[int, Any], Any]) -> Iterator[dict[int, Any]]:
    """Within the block, `handler` handles the signals that stop a run. Gives the handlers that were there before.

    Python delivers signals to the main thread; in another thread nothing changes.
    """
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            before |= {number: signal.signal(number, handler) for number in handled()}
        yield before
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block, a signal that stops a run waits; it has its usual effect when the block ends."""
    waiting: list[int] = []
    try:
        with handled_by(lambda number, frame: waiting.append(number)):
            yield
    finally:
        for number in waiting[:1]:
            signal.raise_signal(number)
