"""The signals that stop a run."""

from __future__ import annotations

import signal

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
