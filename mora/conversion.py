"""MoRA as LoRA: exact for the grouped operators, the closest of a rank for the others.

Truncation and sharing sum inputs into q groups, multiply by M and spread the q results over the outputs. The sums are
a matrix of zeros and ones (twos where `wrap` counts an input twice), the spreading copies rows of M: two LoRA factors
of rank q that give the same update with no arithmetic at all. Decouple and rotation give an update of full rank.

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor

from .grouped import Grouped
from .layer import MoraLinear
from .operators import Operator
from .restart import adapted_layers


@dataclass(frozen=True)
class AsLora:
    """A LoRA adapter in PEFT's terms.

    Attributes:
        config: Its configuration; the scale is 1 in every layer.
        weights: Its state dict, as `adapter_model.safetensors` holds it.
        error: Frobenius norm of what the update of a layer lacks over that of the update, in the worst layer.
        worst: The name of that layer.
    """

    config: LoraConfig
    weights: dict[str, Tensor]
    error: float
    worst: str


def lora_factors(operator: Operator, M: Tensor) -> tuple[Tensor, Tensor]:
    """A of shape (q, k) and B of shape (d, q), so that ``B @ A`` equals ``operator.delta_weight(M)``.

    Raises:
        ValueError: The operator is decouple or rotation, whose update has no such factors.
    """
    if not isinstance(operator, Grouped):
        raise ValueError("the update of decouple and rotation has full rank: only truncation and sharing are a LoRA")
    identity = torch.eye(operator.r_hat, dtype=M.dtype, device=M.device)
    return operator.inputs.spread(identity), operator.outputs.spread(M.mT).mT


def closest_factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (rank, k) and B (d, rank) whose product is the closest to `delta` (d, k) in the Frobenius norm (Eckart-Young).

    Raises:
        ValueError: The rank is not between 1 and min(d, k).
    """
    if not 1 <= rank <= min(delta.shape):
        raise ValueError(f"the rank must be from 1 to {min(delta.shape)}, got {rank}")
    U, S, Vh = torch.linalg.svd(delta.double(), full_matrices=False)
    root = S[:rank].sqrt()
    return (root[:, None] * Vh[:rank]).to(delta.dtype), (U[:, :rank] * root).to(delta.dtype)


@torch.no_grad()
def as_lora(model: PeftModel, adapter: str = "default", rank: int | None = None) -> AsLora:
    """The adapter `adapter` as a LoRA; `model` stays what it is.

    Args:
        model: A model with MoRA adapters.
        adapter: Its name.
        rank: None: the exact factors, of rank r_hat. A number: the closest LoRA of this rank, for any operator; in
            layers that are smaller, of their own full rank.

    Raises:
        ValueError: No rank is given and the operator is decouple or rotation; or the adapter trains more than its
            matrices (`bias`, `modules_to_save`), or is no MoRA adapter.
    """
    config: Any = model.peft_config[adapter]
    if config.peft_type != "MORA":
        raise ValueError(f"adapter {adapter!r} is {config.peft_type.value}, not MORA")
    if config.bias != "none" or config.modules_to_save:
        raise ValueError("a LoRA adapter would hold neither the biases nor the modules_to_save of this one")
    weights: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    errors: dict[str, float] = {}
    transposed = False
    for name, layer in adapted_layers(model, adapter):
        assert isinstance(layer, MoraLinear)
        operator, M = layer.mora_operator[adapter], layer.mora_M[adapter].detach()
        if rank is None:
            A, B = lora_factors(operator, M)
            errors[name] = 0.0
        else:
            delta = operator.delta_weight(M)
            A, B = closest_factors(delta, min(rank, *delta.shape))
            norm = float(delta.double().norm())
            errors[name] = float((B.double() @ A.double() - delta.double()).norm()) / norm if norm else 0.0
        ranks[name] = len(A)
        transposed |= layer._transposed
        weights[f"base_model.model.{name}.lora_A.weight"] = A.cpu().contiguous()
        weights[f"base_model.model.{name}.lora_B.weight"] = B.cpu().contiguous()
    (common, _), *_ = Counter(ranks.values()).most_common(1)
    # PEFT reads the names as regular expressions, from the end of a layer's name; "^" ties them to its start.
    others = {f"^{name}": r for name, r in ranks.items() if r != common}
    lora = LoraConfig(
        r=common,
        lora_alpha=common,
        rank_pattern=others,
        alpha_pattern=dict(others),
        lora_dropout=config.mora_dropout,
        fan_in_fan_out=transposed,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        inference_mode=True,
    )
    worst = max(errors, key=lambda name: errors[name])
    return AsLora(lora, weights, errors[worst], worst)
