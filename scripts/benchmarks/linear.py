"""One linear layer, forward and backward: what an adapter adds to the frozen layer, against what LoRA adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn

from mora import MoraConfig

from . import timing

TOKENS = 1024
SHAPES = ((2048, 2048), (2048, 5504), (5504, 2048), (576, 1536), (4096, 4096))  # in x out
RANKS = (8, 128)
OPERATORS = ("sharing", "decouple", "rotation")


def configs(r: int) -> dict[str, PeftConfig]:
    """The adapters that are compared, at equal budgets of parameters."""
    target: dict[str, Any] = {"r": r, "target_modules": ["0"]}
    configs: dict[str, PeftConfig] = {"lora": LoraConfig(**target), "dora": LoraConfig(use_dora=True, **target)}
    return configs | {name: MoraConfig(operator=name, **target) for name in OPERATORS}


def adapted(weight: nn.Parameter, config: PeftConfig | None) -> nn.Module:
    """A layer with this very weight, frozen, and the adapter that `config` describes, if any."""
    base = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    base.weight = weight
    if config is None:
        return base
    model: Any = get_peft_model(nn.Sequential(base), config).get_base_model()
    layer: nn.Module = model[0]
    return layer


def step(layer: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], None]:
    """Forward and backward; the input wants a gradient, as it does everywhere in a model but in its first layer."""
    trained = [p for p in layer.parameters() if p.requires_grad]

    def call() -> None:
        layer(x).backward(gradient)
        for tensor in (x, *trained):
            tensor.grad = None

    return call


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each shape, rank and adapter."""
    seconds, rounds = (2.0, (3, 5)) if quick else (30.0, (25, 100))
    for k, d in SHAPES:
        weight = nn.Parameter(torch.randn(d, k) / k**0.5, requires_grad=False)
        x, gradient = torch.randn(TOKENS, k, requires_grad=True), torch.randn(TOKENS, d)
        for r in RANKS:
            layers = {"frozen": adapted(weight, None)} | {n: adapted(weight, c) for n, c in configs(r).items()}
            calls = {name: step(layer, x, gradient) for name, layer in layers.items()}
            samples = timing.alternate(calls, seconds, rounds)
            for name in samples:
                row = {"in": k, "out": d, "r": r, "method": name, "time": timing.summary(samples[name])}
                if name != "frozen":
                    row["against_frozen"] = timing.ratio(samples, name, "frozen")
                    row["against_lora"] = timing.ratio(samples, name, "lora", less="frozen")
                yield row
