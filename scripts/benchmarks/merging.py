"""Merging an adapter into its base weight against adding a ready dense matrix, and a restart of a whole model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from peft import get_peft_model

from mora import MoraConfig, operators, restart

from . import models, timing

SHAPES = ((4096, 11008), (11008, 4096))  # in x out: LLaMA-2 7B's up_proj and down_proj
RANKS = (8, 128)
MODELS = (("smollm2-135m", 8), ("llama-250m", 128))  # restarted at this rank
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("truncation", {}),
    ("sharing", {}),
    ("sharing", {"in_groups": "contiguous", "out_groups": "contiguous"}),
    ("sharing", {"in_groups": "strided", "out_groups": "contiguous"}),
    ("sharing", {"in_groups": "contiguous", "out_groups": "strided"}),
    ("decouple", {}),
    ("decouple", {"surplus": "fold"}),
    ("rotation", {}),
    ("rotation", {"surplus": "fold"}),
)


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each operator, shape and rank; then one for each model that is restarted."""
    yield from merges(quick)
    yield from restarts(quick)


@torch.no_grad()
def merges(quick: bool) -> Iterator[dict[str, Any]]:
    seconds, rounds = (1.0, (3, 5)) if quick else (7.0, (7, 40))
    for k, d in SHAPES:
        weight, dense = torch.randn(d, k), torch.randn(d, k) * 1e-3
        for r in RANKS:
            calls: dict[str, Any] = {"W += D": partial(weight.add_, dense)}
            for name, options in VARIANTS:
                q = operators.square_size(k, d, r, even=name == "rotation")
                operator, M = operators.build(name, k, d, q, **options), torch.randn(q, q) * 1e-3
                label = ", ".join([name, *options.values()])
                calls[label] = partial(operator.add_delta_, weight, M)
            samples = timing.alternate(calls, seconds, rounds)
            for label in calls:
                against = timing.ratio(samples, label, "W += D")
                row = {"what": "merge", "in": k, "out": d, "r": r, "operator": label}
                yield row | {"time": timing.summary(samples[label]), "ratio": against}


def restarts(quick: bool) -> Iterator[dict[str, Any]]:
    """Merge, regroup and clear the optimizer, against one read and write of all weights, M among them."""
    seconds, rounds = (1.0, (3, 5)) if quick else (6.0, (7, 40))
    for name, r in MODELS:
        config = MoraConfig(r=r, operator="sharing", target_modules=models.TARGETS)
        model = get_peft_model(models.base(name), config)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        weights = [p.detach() for p in model.parameters()]

        samples = timing.alternate(
            {"read and write": partial(read_and_write, weights), "restart": partial(once, model, optimizer)},
            seconds,
            rounds,
        )
        for label in samples:
            against = timing.ratio(samples, label, "read and write")
            row = {"what": "restart", "model": name, "r": r, "operator": label}
            yield row | {"time": timing.summary(samples[label]), "ratio": against}


def once(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """All that a restart does to a model and its optimizer."""
    restart.restart(model)
    restart.reset_optimizer(optimizer, [p for p in model.parameters() if p.requires_grad])


def read_and_write(weights: list[torch.Tensor]) -> None:
    for weight in weights:
        weight.mul_(1.0)
