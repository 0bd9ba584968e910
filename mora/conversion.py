"""Conversion of MoRA adapters to LoRA and to MiSS, which stock PEFT loads.

Truncation and sharing sum the inputs of each of q groups, multiply the q sums by M, and copy the q results to the
outputs. The sums are a product with a matrix of zeros and ones: an input that `wrap` counts several times is in several
groups. The copies repeat rows of M. These two matrices are LoRA factors of rank q with the same update, and no entry is
rounded. Randproj has the factors P and Q M. The updates of decouple and rotation have full rank, so no LoRA of a
smaller rank equals them. For all operators there is a closest LoRA of a rank.

MiSS (arXiv 2409.15371) with `init_weights="mini"` and ``r = mini_r = q`` is sharing with strided groups: its matrix is
the transpose of M. A MiSS adapter is therefore as small as the MoRA adapter.

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, MissConfig, PeftConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn

from . import sharded
from .config import config_of, is_rank
from .factored import Factored
from .layer import MoraLinear
from .operators import BLOCKED, FACTORED, Operator
from .projected import Projection
from .restart import adapted_layers


@dataclass(frozen=True)
class Converted:
    """An adapter of another method, in the format of PEFT.

    Attributes:
        config: The configuration of the adapter.
        weights: The state dict of the adapter, with the names of `adapter_model.safetensors`.
    """

    config: PeftConfig
    weights: dict[str, Tensor]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors` into a folder.

        `PeftModel.from_pretrained(base, folder)` loads them, also where this package is not installed.

        Args:
            folder: Created if it does not exist. Files of these two names are replaced.
        """
        self.config.save_pretrained(str(folder))
        save_file(self.weights, Path(folder) / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


@dataclass(frozen=True)
class AsLora(Converted):
    """A LoRA adapter in the format of PEFT, and its distance from the MoRA adapter.

    Attributes:
        config: The configuration of the LoRA adapter. Its scale is 1 in every layer.
        weights: The state dict of the LoRA adapter, with the names of `adapter_model.safetensors`.
        error: The relative error |B A - delta| / |delta| (Frobenius norm) of the layer with the largest relative error.
        worst: The name of the layer with the largest relative error.
    """

    config: LoraConfig
    error: float
    worst: str


@dataclass(frozen=True)
class AsMiss(Converted):
    """A MiSS adapter in the format of PEFT. It equals the MoRA adapter.

    Attributes:
        config: The configuration of the MiSS adapter.
        weights: The state dict of the MiSS adapter, with the names of `adapter_model.safetensors`.
    """

    config: MissConfig


def lora_factors(operator: Operator, M: Tensor) -> tuple[Tensor, Tensor]:
    """LoRA factors of a factored operator: A (q, k) and B (d, q), ``B @ A`` equals ``operator.delta_weight(M)``.

    Raises:
        ValueError: The operator is decouple or rotation. Their updates have no factors of rank q.
    """
    if not isinstance(operator, Factored):
        raise ValueError(
            f"the update of {' and '.join(BLOCKED)} has full rank: only {', '.join(FACTORED)} equal a LoRA"
        )
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

    Returns:
        The LoRA adapter. `as_lora(model).save_pretrained(folder)` writes it.

    Raises:
        ValueError: `rank` is None and the operator is decouple or rotation, or the adapter has trained biases or
            `modules_to_save` or `target_parameters`, or the adapter is not a MoRA adapter.
    """
    if not (rank is None or is_rank(rank)):
        raise ValueError(f"rank must be an integer of at least 1, or None for the exact factors, got {rank!r}")
    config = _convertible(model, adapter)
    weights: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    errors: dict[str, float] = {}
    transposed = False
    for name, layer in adapted_layers(model, adapter):
        assert isinstance(layer, MoraLinear)
        operator, M = layer.mora_operator[adapter], sharded.whole(layer.mora_M[adapter].detach())
        if rank is None:
            A, B = lora_factors(operator, M)
            errors[name] = _distance(A, B, operator.delta_weight(M.double())) if _rounds(operator) else 0.0
        else:
            delta = operator.delta_weight(M)
            A, B = closest_factors(delta, min(rank, *delta.shape))
            errors[name] = _distance(A, B, delta)
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
        **_common(config),
    )
    worst = max(errors, key=lambda name: errors[name])
    return AsLora(lora, weights, errors[worst], worst)


@torch.no_grad()
def as_miss(model: PeftModel, adapter: str = "default") -> AsMiss:
    """Convert a MoRA adapter to MiSS. `model` is not changed.

    A MiSS adapter has one size for all its layers, and its matrix fits a whole number of times into the outputs.

    Args:
        model: A model with MoRA adapters.
        adapter: The name of the adapter to convert.

    Returns:
        The MiSS adapter. `as_miss(model).save_pretrained(folder)` writes it.

    Raises:
        ValueError: No MiSS adapter equals the adapter. The message names the layer and the reason.
    """
    config = _convertible(model, adapter)
    if (config.operator_in_force, config.in_groups, config.out_groups) != ("sharing", "strided", "strided"):
        raise ValueError(
            "only the operator sharing with strided groups equals MiSS; "
            f"got {config.operator_in_force} ({config.in_groups}, {config.out_groups})"
        )
    weights: dict[str, Tensor] = {}
    sides: dict[int, str] = {}
    for name, layer in adapted_layers(model, adapter):
        assert isinstance(layer, MoraLinear)
        if reason := _no_miss(layer, adapter, config.wrap):
            raise ValueError(f"{name} has no equal in MiSS: {reason}")
        sides.setdefault(layer.mora_operator[adapter].r_hat, name)
        M = sharded.whole(layer.mora_M[adapter].detach())
        weights[f"base_model.model.{name}.miss_block"] = M.mT.cpu().contiguous()
    if len(sides) > 1:
        (q, first), (other_q, other), *_ = sides.items()
        raise ValueError(
            f"a MiSS adapter has one r_hat for all layers, but {first} has {q} and {other} has {other_q}; "
            "target_modules that choose layers of one size have one r_hat"
        )
    (q,) = sides
    miss = MissConfig(r=q, mini_r=q, init_weights="mini", miss_dropout=config.mora_dropout, **_common(config))
    return AsMiss(miss, weights)


def _rounds(operator: Operator) -> bool:
    """Whether the exact factors are rounded. Those of truncation and sharing hold zeros, ones and entries of M."""
    return isinstance(operator, Factored) and isinstance(operator.inputs, Projection)


def _distance(A: Tensor, B: Tensor, delta: Tensor) -> float:
    """|B A - delta| / |delta|, in float64; 0 for an update of zeros."""
    norm = float(delta.double().norm())
    return float((B.double() @ A.double() - delta.double()).norm()) / norm if norm else 0.0


def _no_miss(layer: MoraLinear, adapter: str, wrap: bool) -> str | None:
    """Why MiSS cannot do what this layer does; None if MiSS can."""
    q, k, d = layer.mora_operator[adapter].r_hat, layer.in_features, layer.out_features
    if not isinstance(layer.get_base_layer(), nn.Linear):
        return f"MiSS adapts torch.nn.Linear, and the layer is a {type(layer.get_base_layer()).__name__}"
    if d % q:
        return f"r_hat must divide the outputs, got r_hat={q} and {d} outputs"
    if q > k:
        return f"r_hat must not exceed the inputs, got r_hat={q} and {k} inputs"
    if wrap and k % q:
        return f"r_hat must divide the inputs where wrap is true, got r_hat={q} and {k} inputs"
    return None


def _convertible(model: PeftModel, adapter: str) -> Any:
    """The configuration of a MoRA adapter that consists of adapted layers alone.

    Raises:
        ValueError: The adapter is another one, or the model has none of this name.
    """
    config = config_of(model, adapter)
    if config.peft_type != "MORA":
        raise ValueError(f"adapter {adapter!r} must be of type MORA, got {config.peft_type.value}")
    if config.bias != "none" or config.modules_to_save or config.target_parameters:
        raise ValueError(
            "only the layers of a MoRA adapter convert, not its biases, modules_to_save and target_parameters; "
            f"got bias={config.bias!r}, modules_to_save={config.modules_to_save!r}, "
            f"target_parameters={config.target_parameters!r}"
        )
    return config


def _common(config: Any) -> dict[str, Any]:
    """The settings that mean the same for MoRA, LoRA and MiSS, for an adapter that does not train further."""
    names = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "task_type")
    same = {name: getattr(config, name) for name in (*names, "base_model_name_or_path")}
    return same | {"inference_mode": True}
