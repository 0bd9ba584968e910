"""The singular values of the change that a run made to the weights (Figure 5), for any method."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mora.restart import base_weight
from mora.spectrum import spectra

from ..errors import refused_merges
from ..spec import target_modules
from ..spec.skeletons import linear_layers


@contextlib.contextmanager
def merged(layer: nn.Module) -> Iterator[Tensor]:
    """The weight (d, k) of a layer with its update, in float32: a merge into bf16 rounds, which changes the spectrum.

    Afterwards the layer has its earlier weight. It counts as merged, so it cannot be trained further.
    """
    if not isinstance(layer, BaseTunerLayer):
        yield base_weight(layer)
        return
    base: Any = layer.get_base_layer()
    unmerged = base.weight.data
    base.weight.data = unmerged.to(torch.float32, copy=True)
    layer.merge()
    yield base_weight(layer)
    base.weight.data = unmerged


def check(model: nn.Module) -> None:
    """Try a merge on a copy of one layer of each kind, before hours of training.

    Raises:
        ConfigError: PEFT cannot merge the adapter, so there will be no spectrum. An example is a LoRA with a bias on
            layers without a bias.
    """
    adapted = {target_modules.kind(n): m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, layer in adapted.items():
        if hasattr(layer.get_base_layer(), "weight"):  # not a stack of experts, which has no spectrum here
            what = f"training.record_spectrum: the spectrum needs a merged update, and PEFT cannot merge that of {name}"
            with refused_merges(what, "false"), merged(copy.deepcopy(cast(nn.Module, layer))):
                pass


def of_run(model: nn.Module, start: nn.Module) -> dict[str, dict[str, float]]:
    """The spectrum of the weights of `model` minus those of `start`, by the kind of a linear layer; without the head.

    Args:
        model: The trained model. It cannot be trained further.
        start: The base model before training.
    """
    if isinstance(model, PeftModel):
        model = model.get_base_model()

    def changes() -> Iterator[tuple[str, Tensor]]:
        linears, head = linear_layers(start)
        for name in linears:
            if name != head:
                before = base_weight(start.get_submodule(name)).detach().cpu().float()
                with merged(model.get_submodule(name)) as weight:
                    yield name, weight.detach().cpu().float() - before

    return spectra(changes())
