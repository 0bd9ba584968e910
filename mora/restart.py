"""Restarts: ReLoRA and ReMoRA merge the adapter into the base weights every T steps and begin again.

One small update is limited in rank; the sum of several is not. A restart (paper, section 3.3)

1. adds the update to the base weight, so that the model's function stays what it is;
2. starts the adapter anew. LoRA: A drawn again, B zero. MoRA: M zero and the next grouping, because with the same
   groups the sum of all updates would stay within rank r_hat;
3. clears the optimizer's state of the adapter, which belongs to the old update;
4. warms the learning rate up again.

`restart` does 1 and 2, `reset_optimizer` 3, `mora.schedules.jagged` 4. What was merged is kept as a list of `Update`,
small enough to be saved in place of the changed base weights, and replayed with the same arithmetic: to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from . import operators, sharded
from .grouped import Grouped
from .layer import MoraLinear

# (in_groups, out_groups) in the order that restarts step through. The paper has two groupings; the authors' code can
# also cycle through four, though the last two add no rank to what the first two reach.
TWO_GROUPINGS = (("strided", "strided"), ("contiguous", "contiguous"))
FOUR_GROUPINGS = (*TWO_GROUPINGS, ("contiguous", "strided"), ("strided", "contiguous"))


@dataclass(frozen=True)
class Update:
    """What one restart added to one layer: MoRA's M with its operator, or LoRA's A, B and scale.

    Attributes:
        layer: Name of the base weight's module in the base model.
        tensors: {"M": (r_hat, r_hat)} or {"A": (r, in), "B": (out, r)}.
        operator: The arguments of `operators.build`, or {"scale": ...} for LoRA.
    """

    layer: str
    tensors: dict[str, Tensor]
    operator: dict[str, Any]

    @torch.no_grad()
    def add_(self, weight: Tensor) -> None:
        """``weight += update``, weight (out, in). Of a sharded weight each rank updates the part that it owns."""
        tensors = {name: t.to(weight.device) for name, t in self.tensors.items()}
        here, rows, columns = sharded.part(weight)
        if "M" in tensors:
            operator = operators.build(**self.operator)
            if sharded.is_sharded(weight):
                assert isinstance(operator, Grouped)  # `check` refuses the others
                operator = operator.part(rows, columns)
            operator.add_delta_(here, tensors["M"])
        else:
            A, B = tensors["A"][:, columns], tensors["B"][rows]
            here += (B @ A * self.operator["scale"]).to(weight.dtype)


def adapted_layers(model: PeftModel, adapter: str = "default") -> Iterator[tuple[str, MoraLinear | LoraLinear]]:
    """The layers that carry `adapter`, by their names in the base model."""
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, MoraLinear | LoraLinear) and adapter in weights_of(module):
            yield name, module


def weights_of(layer: MoraLinear | LoraLinear) -> nn.Module:
    """Adapter name -> what starts a layer's adapter anew."""
    return layer.mora_M if isinstance(layer, MoraLinear) else layer.lora_A


def check(model: PeftModel, adapter: str = "default") -> None:
    """Whether `model` can be restarted.

    Raises:
        ValueError: An operator other than sharing, a quantized base, or an adapter that is no plain LoRA or MoRA.
    """
    found, config = False, cast(Any, model.peft_config.get(adapter))
    for name, module in model.get_base_model().named_modules():
        carries = isinstance(module, BaseTunerLayer) and adapter in module._get_available_adapters()
        if carries and not isinstance(module, MoraLinear | LoraLinear):
            kind = f"{type(module).__module__.rsplit('.', 1)[-1]}.{type(module).__name__}"
            raise ValueError(f"{name}: only plain LoRA and MoRA on unquantized layers can be restarted, not {kind}")
    for name, layer in adapted_layers(model, adapter):
        found = True
        if (
            getattr(layer, "quantization_backend", None) is not None
            or not layer.get_base_layer().weight.is_floating_point()
        ):
            raise ValueError(
                f"{name}: a quantized base weight would be rounded again at every merge; "
                "restarts need fp32, bf16 or fp16"
            )
        if isinstance(layer, MoraLinear) and config.operator_in_force != "sharing":
            raise ValueError(
                f"{name}: restarts change the grouping of the sharing operator; {config.operator_in_force} "
                "has no second grouping to change to"
            )
        if isinstance(layer, LoraLinear) and (layer.use_dora.get(adapter) or layer.lora_bias.get(adapter)):
            raise ValueError(f"{name}: only plain LoRA can be restarted, not DoRA or LoRA with a bias")
    if not found:
        raise ValueError(f"no layer carries a LoRA or MoRA adapter named {adapter!r}")


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Whether the state of `optimizer` can be cleared.

    Raises:
        ValueError: DeepSpeed's ZeRO keeps float32 copies of the weights that a merge and a reset in place do not reach:
            M would be counted twice.
    """
    if type(optimizer).__module__.startswith("deepspeed"):
        raise ValueError(
            "restarts do not work under DeepSpeed's ZeRO: it keeps float32 copies of M that a reset misses"
        )


@torch.no_grad()
def restart(
    model: PeftModel, adapter: str = "default", cycle: Iterable[tuple[str, str]] = TWO_GROUPINGS
) -> list[Update]:
    """Merge `adapter` into the base weights and start it anew; the model's function does not change.

    Args:
        model: A model with LoRA or MoRA (sharing) adapters, not merged.
        adapter: Its name.
        cycle: The groupings of MoRA, in turn. The saved configuration follows.

    Returns:
        What was merged, on the CPU, a layer each.
    """
    updates = []
    for name, layer in adapted_layers(model, adapter):
        updates.append(pending_update(name, layer, model.peft_config[adapter], adapter))
        updates[-1].add_(base_weight(layer))
        if isinstance(layer, MoraLinear):
            layer.mora_M[adapter].zero_()
        else:
            start_lora_anew(layer, adapter)
    config: Any = model.peft_config[adapter]
    if hasattr(config, "in_groups"):
        order = list(cycle)
        regroup(model, *order[(order.index((config.in_groups, config.out_groups)) + 1) % len(order)], adapter=adapter)
    return updates


def start_lora_anew(layer: LoraLinear, adapter: str) -> None:
    """A drawn again as PEFT draws it, B zero. A sharded A is drawn whole, so that ranks draw what one process would."""
    A, B = cast(Any, layer.lora_A[adapter].weight), cast(Any, layer.lora_B[adapter].weight)
    if not sharded.is_sharded(A):
        layer.reset_lora_parameters(adapter, True)
        return
    sharded.write_(A, nn.init.kaiming_uniform_(torch.empty(A.shape, dtype=A.dtype, device=A.device), a=math.sqrt(5)))
    B.zero_()


def regroup(model: PeftModel, in_groups: str, out_groups: str, adapter: str = "default") -> None:
    """Give every MoRA layer of `adapter` this grouping, and the adapter's configuration too."""
    config: Any = model.peft_config[adapter]
    config.in_groups, config.out_groups = in_groups, out_groups
    for _, layer in adapted_layers(model, adapter):
        assert isinstance(layer, MoraLinear)
        layer.mora_operator[adapter] = config.build_operator(layer.in_features, layer.out_features)


def pending_update(name: str, layer: MoraLinear | LoraLinear, config: Any, adapter: str = "default") -> Update:
    """What a restart would add to this layer now."""
    if isinstance(layer, MoraLinear):
        arguments = {
            "name": config.operator_in_force,
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "r_hat": layer.mora_operator[adapter].r_hat,
            "in_groups": config.in_groups,
            "out_groups": config.out_groups,
            "wrap": config.wrap,
        }
        return Update(name, {"M": sharded.whole(layer.mora_M[adapter].detach()).cpu().clone()}, arguments)
    factors = {"A": layer.lora_A[adapter].weight, "B": layer.lora_B[adapter].weight}
    tensors = {key: sharded.whole(weight.detach()).cpu().clone() for key, weight in factors.items()}
    return Update(name, tensors, {"scale": float(layer.scaling[adapter])})


def base_weight(layer: Any) -> Tensor:
    """The base weight of a plain or adapted layer as (out, in): a view, also for Conv1D."""
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return base.weight.T if isinstance(base, Conv1D) else base.weight


@torch.no_grad()
def reset_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    how: str = "zero",
    ratio: float = 0.9,
) -> int:
    """Clear the Adam moments of `parameters`, in place, and nothing of any other parameter's.

    Args:
        optimizer: AdamW or one that keeps the same state.
        parameters: Usually the adapter's.
        how: `zero` clears both moments and the step count, as if the optimizer were new. `magnitude` zeroes the
            smallest entries of each moment and `random` any, as ReLoRA (arXiv 2307.05695) has it; the step count stays.
        ratio: The share of entries that `magnitude` and `random` zero.

    Returns:
        How many parameters had a state to clear.

    Raises:
        ValueError: An unknown `how`, a ratio outside (0, 1], or an optimizer of ZeRO's.
    """
    check_optimizer(optimizer)
    if how not in ("zero", "magnitude", "random"):
        raise ValueError(f"how must be one of zero, magnitude, random, got {how!r}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio!r}")
    touched = 0
    for parameter in parameters:
        state = optimizer.state.get(parameter)
        if not state:
            continue
        touched += 1
        for name in ("exp_avg", "exp_avg_sq"):
            moment = state[name]
            if how == "zero":
                moment.zero_()
                continue
            whole = sharded.whole(moment)
            if how == "magnitude":
                count = round(ratio * whole.numel())
                smallest = whole.flatten().abs().topk(count, largest=False).indices
                whole.view(-1)[smallest] = 0
            else:
                whole.mul_(torch.rand_like(whole) >= ratio)
            if whole is not moment:
                sharded.write_(moment, whole)
        if how == "zero":
            state["step"].zero_()
    return touched
