"""Signals to a run that trains: the run writes a checkpoint, and then the signal has its usual effect."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..spec import ranks, signals
from ..spec.run_config import RunConfig


class StopWithCheckpoint(TrainerCallback):
    """At the first signal the run writes a checkpoint and then stops; at the second signal it stops at once.

    One of several ranks does nothing at the second signal. The signal may be the first signal again, which the system
    has sent to all processes, and which the process that started the ranks passes on. That process kills ranks that
    have to stop at once.

    To stop means to call the signal handler that was installed before: that of run.py raises KeyboardInterrupt, that
    of submitit queues the job again. The checkpoint is written at a step that is logged: otherwise the curve of the
    resumed run would differ from that of an undisturbed run.
    """

    def __init__(self, config: RunConfig) -> None:
        self.log_every = config.training.log_every
        self.handlers: dict[int, Any] = {}  # those that were installed before
        self.pending: int | None = None  # the first signal that this rank got
        self.agreed = False  # whether all ranks stop at the checkpoint that is written now

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals within a block, in the main thread. A signal after the last checkpoint stops at its end."""
        with signals.handled_by(self.handle) as self.handlers:
            yield
            if ranks.any_rank(self.pending is not None):
                self.stop(self.pending or signal.SIGTERM)

    def handle(self, number: int, frame: Any) -> None:
        """The signal handler within the block."""
        alone = ranks.current().count == 1
        if self.pending is not None:
            if alone:
                self.stop(number)
            return
        self.pending = number
        message = f"{signal.Signals(number).name}: stops with a checkpoint, within {self.log_every} steps"
        # Not through sys.stderr: the signal may have interrupted a write to sys.stderr.
        with contextlib.suppress(OSError):  # nobody may read it any more
            os.write(2, f"\n{message}{'; once more stops at once' if alone else ''}\n".encode())

    def stop(self, number: int) -> None:
        """Do what the signal would have done outside the block."""
        handler = self.handlers.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, None)
        elif handler == signal.SIG_DFL:
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.log_every == 0 and ranks.any_rank(self.pending is not None):
            # Ranks without a signal stop as well: otherwise they would wait for the ranks that got one.
            self.agreed = control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Another checkpoint may be written after a signal that only one rank has got so far.
        if self.agreed:
            number, self.pending, self.agreed = self.pending or signal.SIGTERM, None, False
            self.stop(number)
