"""Conversion of MoRA adapters to LoRA: exact for the grouped operators, the closest LoRA of a rank for all operators.

Truncation and sharing sum the inputs of each of q groups, multiply the q sums by M, and copy the q results to the
outputs. The sums are a product with a matrix of zeros and ones (twos if `wrap` counts an input twice). The copies
repeat rows of M. These two matrices are LoRA factors of rank q with the same update, and no entry is rounded. The
updates of decouple and rotation have full rank, so no LoRA of a smaller rank equals them.

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
    """A LoRA adapter in the format of PEFT, and its distance from the MoRA adapter.

    Attributes:
        config: The configuration of the LoRA adapter. Its scale is 1 in every layer.
        weights: The state dict of the LoRA adapter, with the names of `adapter_model.safetensors`.
        error: The relative error |B A - delta| / |delta| (Frobenius norm) of the layer with the largest relative error.
        worst: The name of the layer with the largest relative error.
    """

    config: LoraConfig
    weights: dict[str, Tensor]
    error: float
    worst: str


def lora_factors(operator: Operator, M: Tensor) -> tuple[Tensor, Tensor]:
    """LoRA factors of a grouped operator: A (q, k) and B (d, q) with ``B @ A`` equal to ``operator.delta_weight(M)``.

    Raises:
        ValueError: The operator is decouple or rotation. Their updates have no factors of rank q.
    """
    if not isinstance(operator, Grouped):
        raise ValueError("the update of decouple and rotation has full rank: only truncation and sharing equal a LoRA")
    identity = torch.eye(operator.r_hat, dtype=M.dtype, device=M.device)
    return operator.inputs.spread(identity), operator.outputs.spread(M.mT).mT


def closest_factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """LoRA factors A (rank, k) and B (d, rank) with B A closest to `delta` (d, k) in Frobenius norm (Eckart-Young).

    Raises:
        ValueError: `rank` is below 1 or above min(d, k).
    """
    if not 1 <= rank <= min(delta.shape):
        raise ValueError(f"the rank must be from 1 to {min(delta.shape)}, got {rank}")
    U, S, Vh = torch.linalg.svd(delta.double(), full_matrices=False)
    root = S[:rank].sqrt()
    return (root[:, None] * Vh[:rank]).to(delta.dtype), (U[:, :rank] * root).to(delta.dtype)


@torch.no_grad()
def as_lora(model: PeftModel, adapter: str = "default", rank: int | None = None) -> AsLora:
    """Convert a MoRA adapter to LoRA. `model` is not changed.

    Args:
        model: A model with MoRA adapters.
        adapter: The name of the adapter to convert.
        rank: None: the exact factors, of rank r_hat. A number: the closest LoRA of this rank, for any operator. In a
            layer with min(d, k) < rank the LoRA has rank min(d, k).

    Raises:
        ValueError: `rank` is None and the operator is decouple or rotation, or the adapter has trained biases or
            `modules_to_save` or `target_parameters`, or the adapter is not a MoRA adapter.
    """
    config: Any = model.peft_config[adapter]
    if config.peft_type != "MORA":
        raise ValueError(f"adapter {adapter!r} must be of type MORA, got {config.peft_type.value}")
    if config.bias != "none" or config.modules_to_save or config.target_parameters:
        raise ValueError(
            "only the layers of a MoRA adapter convert to LoRA, not its biases, modules_to_save and target_parameters; "
            f"got bias={config.bias!r}, modules_to_save={config.modules_to_save!r}, "
            f"target_parameters={config.target_parameters!r}"
        )
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
    # PEFT matches a key of rank_pattern, a regular expression, with the end of a layer's name. "^" matches whole names.
    rank_pattern = {f"^{name}": r for name, r in ranks.items() if r != common}
    lora = LoraConfig(
        r=common,
        lora_alpha=common,
        rank_pattern=rank_pattern,
        alpha_pattern=dict(rank_pattern),
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
