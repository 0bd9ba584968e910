"""The singular values of the change that a run made to the weights (Figure 5), for any method."""

from __future__ import annotations

from collections.abc import Iterator

from peft import PeftModel
from torch import Tensor, nn

from mora.restart import base_weight
from mora.spectrum import spectra

from ..spec.skeletons import linear_layers


def of_run(model: nn.Module, start: nn.Module) -> dict[str, dict[str, float]]:
    """The spectrum of the weights of `model` minus those of `start`, by the kind of a linear layer; without the head.

    Args:
        model: The trained model. Its adapters are merged into its weights, so it cannot be trained further.
        start: The base model before training.
    """
    if isinstance(model, PeftModel):
        model.merge_adapter()
        model = model.get_base_model()

    def changes() -> Iterator[tuple[str, Tensor]]:
        linears, head = linear_layers(start)
        for name in linears:
            if name != head:
                weight, before = (base_weight(network.get_submodule(name)) for network in (model, start))
                yield name, weight.detach().cpu().float() - before.detach().cpu().float()

    return spectra(changes())
