"""Tokens a second of run.py's Trainer, after its warm-up, against a bare loop on the same model and batch.

The two take turns within one training: after every few steps of the Trainer, a callback takes as many steps of the
bare loop on a copy of the model. The bare loop has its one batch ready; the Trainer fetches, collates, logs, steps its
schedule and draws its progress bar meanwhile. Points of the curve and checkpoints are work that was asked for, and
are left out.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, set_seed

from experiments import tasks
from experiments.data.rows import collate
from experiments.spec import compose
from experiments.spec.compose import composition
from experiments.spec.parse import parse
from experiments.train import adapt, base_models, callbacks
from experiments.train import trainer as training
from experiments.train.placement import base_dtype, prepare_device

from . import steps, timing

METHODS = ("lora", "mora")
WARM_UP = 20
SEGMENT = 10


class Turns(TrainerCallback):
    """Times segments of the Trainer's steps, and after each one as many calls of `bare`."""

    def __init__(self, bare: Callable[[], None]) -> None:
        self.bare = bare
        self.samples: timing.Samples = {"bare loop": [], "run.py": []}
        self.since = 0.0

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take a turn of the bare loop where a segment ends; the first one counts for neither."""
        past = state.global_step - WARM_UP
        if past < 0 or past % SEGMENT:
            return
        if past > 0:
            self.samples["run.py"].append(time.perf_counter() - self.since)
        start = time.perf_counter()
        for _ in range(SEGMENT):
            self.bare()
        if past > 0:
            self.samples["bare loop"].append(time.perf_counter() - start)
        self.since = time.perf_counter()


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Two rows for each model and method, of the UUID task at laptop scale."""
    for model, settings in MODELS.items():
        for method in METHODS:
            samples, tokens = train(method, (f"model={model}", *settings), 3 if quick else 20)
            for name, times in samples.items():
                summary = timing.summary(times)
                row = {"model": model, "method": method, "loop": name}
                row["tokens_per_second"] = round(tokens / summary["median"], 1)
                # The ratio of speeds is the inverse of that of times.
                yield row | {"time": summary, "ratio": timing.ratio(samples, "bare loop", name)}


# The model of the protocol, and a model whose step is so short that the overhead of run.py weighs most.
MODELS = {
    "llama-7m": (),
    "tiny": ("method.rank=8", "task.pairs=160", "task.eval_pairs=160", "training.batch_size=16"),
}


def train(method: str, settings: tuple[str, ...], segments: int) -> tuple[timing.Samples, int]:
    """Train `method` with some settings for so many segments; also the tokens of a segment."""
    compose.register()
    never = 1_000_000
    steps_in_all = WARM_UP + SEGMENT * segments
    with tempfile.TemporaryDirectory(prefix="mora-benchmark-") as folder:
        run = parse(
            composition(
                [
                    f"method={method}",
                    "task=uuid",
                    "scale=laptop",
                    *settings,
                    "hardware=cpu",
                    "method.dropout=0.0",
                    f"training.steps={steps_in_all}",
                    f"training.evaluate_every={never}",
                    f"training.checkpoint_every={never}",
                ]
            )
        )
        training.quiet()
        placement = prepare_device(run)
        network, tokenizer, _ = base_models.load(run.model, run.paths.cache_folder, base_dtype(run, placement))
        prepared = tasks.get("uuid").prepare(run, tokenizer)
        set_seed(run.seed)
        adapted = adapt.adapt(network, run)
        batch = collate([prepared.train[i] for i in range(run.training.batch_size)])
        turns = Turns(steps.step(copy.deepcopy(adapted.model).train(), batch))
        trainer = training.build(adapted, prepared.train, lambda: {}, run, placement, Path(folder))
        trainer.add_callback(callbacks.ProgressBar())
        trainer.add_callback(turns)
        training.train(trainer)
        return turns.samples, SEGMENT * batch["input_ids"].numel()
