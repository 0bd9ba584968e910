"""Every method of `conf/method` that has an adapter, against LoRA at the same budget: one linear layer and one step.

Each method is adapted as run.py adapts it, so a new file in `conf/method` is a new row. LoRA takes turns with each
method, on a model of its own, because some methods change the base weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from experiments.errors import ConfigError, reason_of
from experiments.spec.parse import of_methods
from experiments.spec.run_config import RunConfig
from experiments.train import adapt

from . import linear, memory, models, steps, timing

MODEL, RANK, LAYER = "smollm2-135m", 8, "mlp.up_proj"
ROWS, LENGTH = 2, 128  # the batch of a step is small: some methods take eight times as long as LoRA
REFERENCE = "lora"


def configs() -> dict[str, RunConfig]:
    """The run of each method with an adapter, at the rank `RANK`."""
    return of_methods(RANK, "task=uuid", "scale=laptop", f"model={MODEL}")


def parameters(model: nn.Module) -> int:
    """How many parameters train."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def adapted_layer(model: nn.Module) -> Any:
    """The first layer named `LAYER`."""
    return next(module for name, module in model.named_modules() if name.endswith(LAYER))


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each method."""
    base, runs = models.base(MODEL), configs()
    reference = adapt.adapt(copy.deepcopy(base), runs.pop(REFERENCE)).model.train()
    for name, run in runs.items():
        row: dict[str, Any] = {"model": MODEL, "r": RANK, "method": run.method.label}
        try:
            model = adapt.adapt(copy.deepcopy(base), run).model.train()
            pair = {REFERENCE: reference, name: model}
            share = parameters(model) / parameters(reference)
            measured = {"parameters": {"value": round(share, 4)}} | one_linear(pair, quick) | one_step(pair, quick)
        except (ConfigError, RuntimeError) as error:  # the rows of the other methods took an hour
            measured = {"refused": reason_of(error)}
        yield row | measured


def one_linear(pair: dict[str, nn.Module], quick: bool) -> dict[str, Any]:
    """Forward and backward of one layer: the ratios of the time and of the bytes saved for the backward pass."""
    layers = {name: adapted_layer(model) for name, model in pair.items()}
    k, d = layers[REFERENCE].in_features, layers[REFERENCE].out_features
    x, gradient = torch.randn(linear.TOKENS, k, requires_grad=True), torch.randn(linear.TOKENS, d)
    calls = {name: linear.step(layer, x, gradient) for name, layer in layers.items()}
    seconds, rounds = (1.0, (3, 5)) if quick else (5.0, (25, 100))
    samples = timing.alternate(calls, seconds, rounds)
    lora, own = (memory.bytes_saved(layer, x) for layer in layers.values())
    ratio = timing.ratio(samples, other(pair), REFERENCE)
    return {"in": k, "out": d, "linear": ratio, "saved": {"value": round(own / lora, 4)}}


def one_step(pair: dict[str, nn.Module], quick: bool) -> dict[str, Any]:
    """An optimizer step: the ratios of the time and of the peak of memory."""
    model: Any = pair[REFERENCE]
    rows = 1 if quick else ROWS
    ids = torch.randint(3, model.config.vocab_size, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    calls = {name: steps.step(model, {"input_ids": ids, "labels": ids}) for name, model in pair.items()}
    samples = timing.alternate(calls, 2.0 if quick else 15.0, (2, 3) if quick else (5, 60))
    lora, own = (memory.peak_bytes(call) for call in calls.values())
    ratio = timing.ratio(samples, other(pair), REFERENCE)
    return {"step": ratio, "peak": {"value": round(own / lora, 4)}, "time": timing.summary(samples[other(pair)])}


def other(pair: dict[str, nn.Module]) -> str:
    """The method that is compared with LoRA."""
    return next(name for name in pair if name != REFERENCE)
