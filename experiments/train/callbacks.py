"""Callbacks of the Trainer: the points of the curve, the progress bar, and the file that says how far the run is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..measure.progress import bar
from ..spec import ranks
from ..spec.run_config import RunConfig
from ..store import heartbeats
from ..store.records import curve
from . import peak_memory

Measure = Callable[[], dict[str, float]]

# Seconds after which a checkpoint is written at the next logged step: a job of a few hours that is killed keeps most of
# its work, however long a step takes.
LONGEST_UNSAVED = 30 * 60


class Curve(TrainerCallback):
    """Adds the task's metrics to the training log every `evaluate_every` steps, before a checkpoint of that step.

    Raises:
        FloatingPointError: The loss is not a finite number: the run has diverged.
    """

    def __init__(self, measure: Measure, config: RunConfig) -> None:
        self.measure, self.config = measure, config
        self.seconds = 0.0
        self.since = self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.seconds = max((row.get("seconds", 0.0) for row in state.log_history), default=0.0)
        self.since = self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step, t = state.global_step, self.config.training
        last = step == t.steps
        control.should_log = last or step % t.log_every == 0
        # All ranks save, or none does. Their clocks differ, so the ranks agree.
        late = control.should_log and ranks.any_rank(time.monotonic() - self.saved > LONGEST_UNSAVED)
        control.should_save = last or late or step % t.checkpoint_every == 0
        if step % t.evaluate_every == 0 or last:
            state.log_history.append({"step": step, **self.measure()})
        if control.should_log:
            # A checkpoint holds the log, so a resumed run knows what the steps before it took.
            seconds, peak = self.seconds + time.monotonic() - self.since, peak_memory.peak(args.device.type)
            state.log_history.append({"step": step, "seconds": seconds, "peak_memory_bytes": peak})

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.saved = time.monotonic()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = state.log_history[-1].get("loss", 0.0)
        if not math.isfinite(loss):
            raise FloatingPointError(f"diverged at step {state.global_step}: the loss is {loss}")


class ProgressBar(TrainerCallback):
    """One line: the step, the loss, and the task's metrics once they have been measured.

    The bar closes when the training ends. Where the training is interrupted or fails, its caller calls `close`.
    """

    bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar = bar(total=state.max_steps, initial=state.global_step, unit="step")
        self.shown: dict[str, str] = {}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for row in curve(state.log_history[-4:]):
            self.shown |= {k: f"{v:.4g}" for k, v in row.items() if k not in ("step", "learning_rate", "grad_norm")}
        self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the bar, if it is open."""
        if self.bar is not None:
            self.bar.close()


class ProgressFile(TrainerCallback):
    """Keeps the file of a run up to date while the model trains: step, loss, learning rate, time left."""

    def __init__(self, heartbeat: heartbeats.Heartbeat) -> None:
        self.heartbeat = heartbeat
        self.first, self.since = 0, time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.first, self.since = state.global_step, time.monotonic()
        self.heartbeat.beat(stage=heartbeats.TRAINING, step=state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        each = (time.monotonic() - self.since) / (state.global_step - self.first)
        left = each * (state.max_steps - state.global_step)
        self.heartbeat.beat(step=state.global_step, seconds_left=left)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        row = state.log_history[-1]
        if "loss" in row:  # the last entry, of the whole training, has none
            self.heartbeat.beat(loss=row["loss"], learning_rate=row.get("learning_rate"))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.heartbeat.beat(stage=heartbeats.MEASURING, step=state.global_step, seconds_left=None)
