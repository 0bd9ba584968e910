"""The spectrum of what a run changed (Figure 5), whatever the method."""

from __future__ import annotations

from collections.abc import Iterator

from peft import PeftModel
from torch import Tensor, nn

from mora.restart import base_weight
from mora.spectrum import spectra

from ..spec.shapes import PROJECTIONS


def of_run(model: nn.Module, start: nn.Module) -> dict[str, dict[str, float]]:
    """Singular values of (trained - initial) weights, per projection; merges the adapters of `model` into it.

    Args:
        model: The trained model; not to be trained on after this.
        start: The base model as it was before training.
    """
    if isinstance(model, PeftModel):
        model.merge_adapter()
        model = model.get_base_model()

    def changes() -> Iterator[tuple[str, Tensor]]:
        for name, module in start.named_modules():
            if name.rsplit(".", 1)[-1] in PROJECTIONS:
                now = base_weight(model.get_submodule(name))
                yield name, now.detach().cpu().float() - base_weight(module).detach().cpu().float()

    return spectra(changes())
