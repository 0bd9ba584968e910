"""What a signal does to a run that trains: a checkpoint first, then what it would have done otherwise."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..spec import ranks
from ..spec.run_config import RunConfig

# A user, a scheduler that ends a job, and the notices of SLURM that a job's time is nearly up or its place taken.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopWithCheckpoint(TrainerCallback):
    """The first signal is answered when a checkpoint of the current state is on the disk, the second at once.

    The answer is the handler's that was there before: run.py's raises KeyboardInterrupt, submitit's queues the job
    again. The checkpoint is taken at a step that is logged, or the curve of the resumed run would differ.
    """

    def __init__(self, config: RunConfig) -> None:
        self.log_every = config.training.log_every
        self.before: dict[int, Any] = {}
        self.asked: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals for the time of a `with`; Python hands them to the main thread alone."""
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in self.before.items():
                signal.signal(number, handler)
            self.before = {}

    def ask(self, number: int, frame: Any) -> None:
        """The handler."""
        if self.asked is not None:
            self.answer(number)
            return
        self.asked = number
        said = f"{signal.Signals(number).name}: stops with a checkpoint, within {self.log_every} steps"
        # Not through sys.stderr: the signal may have come in the middle of a write to it.
        os.write(2, f"\n{said}; once more stops at once\n".encode())

    def answer(self, number: int) -> None:
        """Do what the signal would have done without this."""
        handler = self.before.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, None)
        elif handler == signal.SIG_DFL:
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.log_every == 0 and ranks.agree_on_any(self.asked is not None):
            # Ranks that heard nothing themselves stop with those that did, or these would wait for them.
            self.asked = self.asked or signal.SIGTERM
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.asked is not None:
            number, self.asked = self.asked, None
            self.answer(number)
