"""A whole training step: forward, backward, clipping and AdamW, with LoRA, with MoRA, and with MoRA composed plainly.

Plainly is the authors' way: compress, multiply, decompress and add are operations of their own, and rotation turns
the activations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig

from mora import MoraConfig

from . import memory, models, timing


@dataclass(frozen=True)
class StepCase:
    """What is timed; tokens a step are rows times length."""

    model: str
    r: int
    operator: str
    rows: int
    length: int
    seconds: float


SETTINGS = (
    StepCase("tiny", 8, "sharing", 16, 74, 6.0),  # the batch of the UUID task
    StepCase("smollm2-135m", 8, "sharing", 4, 128, 120.0),
    StepCase("smollm2-135m", 8, "rotation", 4, 128, 20.0),
    StepCase("llama-250m", 128, "sharing", 2, 128, 25.0),
)


def step(
    model: Any, batch: dict[str, torch.Tensor], context: Callable[[], Any] = contextlib.nullcontext
) -> Callable[[], None]:
    """One optimizer step on `batch`, as a bare loop does it, with the forward pass inside `context()`."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)

    def call() -> None:
        with context():
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return call


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each setting and method."""
    for s in SETTINGS:
        rows = 1 if quick else s.rows
        base = models.base(s.model)
        ids = torch.randint(3, base.config.vocab_size, (rows, s.length), generator=torch.Generator().manual_seed(0))
        batch = {"input_ids": ids, "labels": ids}
        mora = MoraConfig(r=s.r, operator=s.operator, target_modules=models.TARGETS)
        calls = {
            "lora": step(models.adapted(base, LoraConfig(r=s.r, target_modules=models.TARGETS)), batch),
            "mora": step(models.adapted(base, mora), batch),
            "mora, composed plainly": step(models.compose_plainly(models.adapted(base, mora)), batch),
        }
        samples = timing.alternate(calls, s.seconds / 10 if quick else s.seconds, (2, 3) if quick else (5, 60))
        for name, call in calls.items():
            against = timing.ratio(samples, name, "lora")
            row = {"model": s.model, "r": s.r, "operator": s.operator, "tokens": rows * s.length, "method": name}
            yield row | {"time": timing.summary(samples[name]), "ratio": against, "peak": memory.peak_bytes(call)}
