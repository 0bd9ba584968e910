"""The models that are timed whole, and copies of one with different adapters."""

from __future__ import annotations

import copy
from typing import Any

from peft import PeftConfig, get_peft_model
from torch import Tensor, nn

from experiments.spec import shapes
from experiments.spec.run_config import Paths
from experiments.train import base_models, scratch
from mora import MoraLinear

TARGETS = list(shapes.PROJECTIONS)


def base(name: str) -> Any:
    """The frozen model, without its tokenizer: the 250M shape needs none to be timed."""
    import os

    import torch

    if name == "llama-250m":
        model = scratch.llama(shapes.NAMED[name], 0, bos=None, eos=1, pad=0)
    else:
        cache = Paths(results="results", cache=os.environ.get("MORA_CACHE")).cache_folder
        model = base_models.load(name, cache, torch.float32).network
    return model.requires_grad_(False).train()


def adapted(model: Any, config: PeftConfig) -> Any:
    """A copy of a frozen model with adapters. The copies share the frozen weights."""
    shared: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return get_peft_model(copy.deepcopy(model, shared), config)


def compose_plainly(model: nn.Module) -> Any:
    """Have the MoRA layers do what the authors' code does: compress, multiply, decompress, add, a tensor each."""
    for layer in model.modules():
        if isinstance(layer, MoraLinear):
            layer.forward = _plain(layer)  # type: ignore[method-assign]
    return model


def _plain(layer: MoraLinear) -> Any:
    def forward(x: Tensor) -> Tensor:
        (name,) = layer.active_adapters
        update = layer.mora_operator[name].apply(layer.mora_dropout[name](x), layer.mora_M[name])
        return layer.base_layer(x) + update

    return forward
