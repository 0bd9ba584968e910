"""Restarts: every T steps, ReLoRA and ReMoRA merge the adapter into the base weights and start a new adapter.

The rank of one update is limited. The sum of several updates can have a higher rank. A restart has four steps (arXiv
2405.12130, section 3.3):

1. Add the update to the base weight, so that the model's function stays the same.
2. Initialise the adapter again. LoRA: A random, B zero. MoRA: M zero, and the next grouping. With the same grouping the
   sum of all updates would never exceed rank r_hat.
3. Clear the optimizer's state of the adapter's parameters, because it belongs to the merged update.
4. Warm up the learning rate again.

`restart` does steps 1 and 2, `reset_optimizer` step 3 and `mora.schedules.jagged` step 4. `restart` returns the merged
updates as a list of `Update`. A checkpoint saves this list instead of the changed base weights while the list is
smaller. Adding the updates to the pretrained weights again gives the same bits.

Legend: k = in_features, d = out_features, q = r_hat, r = rank of LoRA. M: (q, q). A: (r, k). B: (d, r).
"""

from __future__ import annotations

import math
import re
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
from .config import config_of
from .grouped import Grouped
from .layer import MoraLinear

# Groupings (in_groups, out_groups) in the order of the restarts. The paper has two groupings. The authors' code can
# also cycle through four groupings, but the last two do not raise the rank that the first two reach.
TWO_GROUPINGS = (("strided", "strided"), ("contiguous", "contiguous"))
FOUR_GROUPINGS = (*TWO_GROUPINGS, ("contiguous", "strided"), ("strided", "contiguous"))

# The values of init_lora_weights with which LoRA leaves the base weights as they are. PiSSA, for example, changes them.
# They concern the start alone: a restart draws A as PEFT does by default.
INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")

REQUIRED = ("exp_avg", "exp_avg_sq", "step")  # the state of Adam: without it an optimizer cannot be reset
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # the last one is AMSGrad's
UNLIKE_ADAM = (torch.optim.NAdam, torch.optim.Adamax)  # they have betas as Adam has, but more or another state


@dataclass(frozen=True)
class Update:
    """The update that one restart added to one layer: M and its operator for MoRA, or A, B and the scale for LoRA.

    Attributes:
        layer: The name of the layer in the base model.
        tensors: {"M": (q, q)} for MoRA, {"A": (r, k), "B": (d, r)} for LoRA. Empty for the updates of a layer that a
            file held as one merged weight: nobody knows them any more, and only the merged weight can be saved again.
        operator: The arguments of `operators.build` for MoRA, {"scale": float} for LoRA.
    """

    layer: str
    tensors: dict[str, Tensor]
    operator: dict[str, Any]

    @torch.no_grad()
    def add_(self, weight: Tensor) -> None:
        """``weight += update`` for a weight (d, k). If the weight is sharded, each rank updates its own part.

        Raises:
            ValueError: The file held the merged weight in place of the update.
        """
        if not self.tensors:
            raise ValueError(f"the updates of {self.layer} were saved as one merged weight, and cannot be added again")
        tensors = {name: t.to(weight.device) for name, t in self.tensors.items()}
        local_weight, rows, columns = sharded.part(weight)
        if "M" in tensors:
            operator = operators.build(**self.operator)
            if sharded.is_sharded(weight):
                assert isinstance(operator, Grouped)  # `check` refuses the block operators
                operator = operator.part(rows, columns)
            operator.add_delta_(local_weight, tensors["M"])
        else:
            A, B = tensors["A"][:, columns], tensors["B"][rows]
            local_weight += (B @ A * self.operator["scale"]).to(weight.dtype)


def base_of(model: PeftModel) -> nn.Module:
    """The base model, with the adapters in its layers.

    Raises:
        TypeError: The model is no PeftModel, such as a model of transformers after `add_adapter`.
    """
    if not hasattr(model, "get_base_model"):
        raise TypeError(f"the model must be a PeftModel, as peft.get_peft_model returns it, got {type(model).__name__}")
    base: nn.Module = model.get_base_model()
    return base


def adapted_layers(model: PeftModel, adapter: str = "default") -> Iterator[tuple[str, MoraLinear | LoraLinear]]:
    """Yield (name in the base model, layer) for each layer with the adapter `adapter`."""
    for name, module in base_of(model).named_modules():
        if isinstance(module, MoraLinear | LoraLinear) and adapter in weights_of(module):
            yield plain_name(name), module


def _computes_as_plain(module: nn.Module) -> bool:
    """Whether a layer is MoRA's or LoRA's, and no subclass of it that computes something else: a merge adds B A."""
    for plain in (MoraLinear, LoraLinear):
        if isinstance(module, plain):
            kind = type(module)
            return (kind.forward, kind.get_delta_weight) == (plain.forward, plain.get_delta_weight)
    return False


def weights_of(layer: MoraLinear | LoraLinear) -> nn.Module:
    """The container of the layer's adapters, by adapter name: the Ms of a MoRA layer, the As of a LoRA layer."""
    return layer.mora_M if isinstance(layer, MoraLinear) else layer.lora_A


def check(model: PeftModel, adapter: str = "default") -> None:
    """Check that the adapter `adapter` of `model` can be restarted.

    Raises:
        TypeError: The model is no PeftModel.
        ValueError: No layer has the adapter, it is neither plain LoRA nor MoRA with the sharing operator, it is not
            active, an adapter is merged, or a base weight is quantized or belongs to another module too.
    """
    check_unmerged(model)
    config: Any = model.peft_config.get(adapter)
    for name, module in base_of(model).named_modules():
        is_adapted = isinstance(module, BaseTunerLayer) and adapter in module._get_available_adapters()
        if is_adapted and not _computes_as_plain(module):
            kind = f"{type(module).__module__.rsplit('.', 1)[-1]}.{type(module).__name__}"
            raise ValueError(
                f"{plain_name(name)}: only plain LoRA and MoRA on unquantized layers can be restarted, not {kind}"
            )
    layers, shared = list(adapted_layers(model, adapter)), sharers(model.get_base_model())
    for name, layer in layers:
        if layer.disable_adapters or adapter not in layer.active_adapters:
            raise ValueError(
                f"{name}: adapter {adapter!r} is not active, so a merge would change the function of the model; "
                f"call set_adapter({adapter!r}) or enable the adapters first"
            )
        if (
            getattr(layer, "quantization_backend", None) is not None
            or not layer.get_base_layer().weight.is_floating_point()
        ):
            raise ValueError(
                f"{name}: a quantized base weight would be rounded again at every merge; "
                "restarts need base weights in fp32, bf16 or fp16"
            )
        if others := shared.get(layer.get_base_layer()):
            raise ValueError(
                f"{name}: its weight is also the weight of {', '.join(others)}; a merge would change both, and so the "
                "function of the model. Leave this layer out of target_modules"
            )
        if isinstance(layer, MoraLinear) and config.operator_in_force != "sharing":
            raise ValueError(
                f"{name}: a restart changes the grouping, and {config.operator_in_force} has no second grouping; "
                "only the sharing operator can be restarted"
            )
        if isinstance(layer, LoraLinear) and (layer.use_dora.get(adapter) or layer.lora_bias.get(adapter)):
            raise ValueError(f"{name}: only plain LoRA can be restarted, not DoRA or LoRA with a bias")
        if isinstance(layer, LoraLinear) and adapter in layer.lora_variant:
            variant = type(layer.lora_variant[adapter]).__name__
            raise ValueError(f"{name}: only plain LoRA can be restarted, not its variant {variant}")
        if isinstance(layer, LoraLinear) and config.init_lora_weights not in INITIALISATIONS:
            raise ValueError(
                f"{name}: init_lora_weights={config.init_lora_weights!r} may change the base weights, so the updates "
                f"would not fit the pretrained weights; allowed: {', '.join(map(str, INITIALISATIONS))}"
            )
    if not layers:
        raise ValueError(f"no layer has a LoRA or MoRA adapter named {adapter!r}")


def check_unmerged(model: PeftModel) -> None:
    """Check that the base weights hold no update that an adapter still holds too.

    Raises:
        TypeError: The model is no PeftModel.
        ValueError: An adapter is merged.
    """
    for name, module in base_of(model).named_modules():
        if isinstance(module, BaseTunerLayer) and module.merged:
            raise ValueError(
                f"{plain_name(name)}: adapter {module.merged_adapters[0]!r} is merged already; "
                "call unmerge_adapter() first"
            )


def sharers(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Module -> the names of the other modules that hold its weight too: the embedding, for a tied head.

    Views of the same memory count as one weight. A module whose weight no other module holds is no key.
    """
    held = [
        (_span(parameter), name, module)
        for name, module in model.named_modules()
        for parameter in module._parameters.values()
        if parameter is not None and parameter.ndim > 1  # a merge changes no bias
    ]
    groups: list[dict[nn.Module, str]] = []
    end = ("", 0)
    for (device, first, last), name, module in sorted(held, key=lambda entry: entry[0]):
        if not groups or (device, first) >= end:
            groups.append({})
        groups[-1][module] = plain_name(name)
        end = max(end, (device, last))
    return {m: [n for other, n in group.items() if other is not m] for group in groups if len(group) > 1 for m in group}


def _span(parameter: Any) -> tuple[str, int, int]:
    """The memory of a parameter: the device, the address of the first byte, and the address after the last byte."""
    if type(parameter) is not nn.Parameter or parameter.is_meta or not parameter.numel():
        return "", id(parameter), id(parameter) + 1  # other kinds, such as sharded parameters, have no address
    last = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    first = parameter.data_ptr()
    return str(parameter.device), first, first + (last + 1) * parameter.element_size()


def plain_name(name: str) -> str:
    """The name of a module or a parameter in the base model: without the parts that wrappers of PEFT and others add."""
    return re.sub(r"\.(base_layer|original_module)(?=\.|$)", "", sharded.unwrapped_name(name))


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Check that `reset_optimizer` can clear the state of `optimizer`. Call this before the first restart.

    Args:
        optimizer: The optimizer, also in a wrapper of accelerate.

    Raises:
        ValueError: It is an optimizer of DeepSpeed's ZeRO. ZeRO keeps float32 copies of the parameters, and a restart
            does not change these copies. The next step would bring the merged M back, so M would count twice. Or its
            state is not that of Adam, such as the state of an 8-bit optimizer. This is known before the first step too
            for the optimizers of torch, and for all without betas.
    """
    *_, innermost = layers = _unwrapped(optimizer)
    if any(type(layer).__module__.startswith("deepspeed") for layer in layers):
        raise ValueError(
            "restarts do not work under DeepSpeed's ZeRO: it keeps float32 copies of M, which a restart cannot reset"
        )
    module = type(innermost).__module__
    states = [state for state in innermost.state.values() if state]
    missing = [name for state in states for name in REQUIRED if name not in state]
    unknown = [name for state in states for name in state if name not in (*MOMENTS, "step")]
    without_betas = any("betas" not in group for group in innermost.param_groups)
    reason = ""
    if module.startswith("bitsandbytes"):
        reason = "it may keep its state in 8 bits"
    elif missing:
        reason = f"its state has no {missing[0]}"
    elif unknown:
        reason = f"its state has {unknown[0]}, which a reset does not know"
    elif without_betas or isinstance(innermost, UNLIKE_ADAM):
        reason = "its state is not that of Adam"
    if reason:
        raise ValueError(
            f"restarts do not work with {type(innermost).__name__} of {module}: {reason}; "
            f"use AdamW, or another optimizer with the state {', '.join(REQUIRED)}"
        )


def innermost_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of torch inside the wrappers of accelerate: it holds the state."""
    return cast(torch.optim.Optimizer, _unwrapped(optimizer)[-1])


def _unwrapped(optimizer: Any) -> list[Any]:
    """The optimizer, and what is inside it: a wrapper of accelerate or of DeepSpeed has the attribute `optimizer`."""
    layers = [optimizer]
    while hasattr(layers[-1], "optimizer"):
        layers.append(layers[-1].optimizer)
    return layers


@torch.no_grad()
def restart(
    model: PeftModel, adapter: str = "default", cycle: Iterable[tuple[str, str]] = TWO_GROUPINGS
) -> list[Update]:
    """Merge an adapter into the base weights and initialise it again.

    The function stays the same up to rounding to the dtype of the base weights. In bf16 and fp16 this rounding loses
    most of a small update: use a float32 base. If several ranks train the model, all must call this function.

    Args:
        model: A model with LoRA or MoRA (sharing) adapters: active and not merged.
        adapter: The name of the adapter.
        cycle: Different groupings (in_groups, out_groups) of MoRA, in the order of the restarts. The restart changes
            the grouping, in the layers and in the configuration, to the next one of the cycle.

    Returns:
        The merged updates, one for each layer, on the CPU.

    Raises:
        TypeError: The model is no PeftModel.
        ValueError: `check` refuses the adapter, its grouping is not in `cycle`, or `cycle` has a grouping twice.
            Nothing has changed then.
    """
    check(model, adapter)
    sharded.reshard(model)
    config: Any = model.peft_config[adapter]
    order = list(cycle)
    grouping = (config.in_groups, config.out_groups) if hasattr(config, "in_groups") else None
    if len(set(order)) < len(order):
        raise ValueError(f"the groupings of a cycle must differ, got {', '.join(map(str, order))}")
    if grouping and grouping not in order:
        allowed = ", ".join(map(str, order))
        raise ValueError(f"adapter {adapter!r} has the grouping {grouping}, which the cycle lacks; allowed: {allowed}")
    updates = []
    for name, layer in adapted_layers(model, adapter):
        updates.append(pending_update(name, layer, model.peft_config[adapter], adapter))
        updates[-1].add_(base_weight(layer))
        if isinstance(layer, MoraLinear):
            layer.mora_M[adapter].zero_()
        else:
            start_lora_anew(layer, adapter)
    if grouping:
        regroup(model, *order[(order.index(grouping) + 1) % len(order)], adapter=adapter)
    return updates


def start_lora_anew(layer: LoraLinear, adapter: str) -> None:
    """Initialise A and B as PEFT does by default, whatever `init_lora_weights` said at the start: B with zeros.

    All ranks get the A that rank 0 draws, so that their copies of the model stay the same. If A is sharded, each rank
    keeps its part, so the values are those of one process.
    """
    A, B = cast(Any, layer.lora_A[adapter].weight), cast(Any, layer.lora_B[adapter].weight)
    values = nn.init.kaiming_uniform_(torch.empty(A.shape, dtype=A.dtype, device=A.device), a=math.sqrt(5))
    sharded.write_(A, sharded.from_first_rank(values))
    B.zero_()


def regroup(model: PeftModel, in_groups: str, out_groups: str, adapter: str = "default") -> None:
    """Change the grouping of the MoRA adapter `adapter`, in its configuration and in every layer.

    Raises:
        ValueError: An adapter is merged: with another grouping it could not be unmerged. Or there is no such adapter.
    """
    check_unmerged(model)
    config = config_of(model, adapter)
    config.in_groups, config.out_groups = in_groups, out_groups
    for _, layer in adapted_layers(model, adapter):
        assert isinstance(layer, MoraLinear)
        layer.mora_operator[adapter] = config.build_operator(
            layer.in_features, layer.out_features, layer.mora_r[adapter]
        )


def pending_update(name: str, layer: MoraLinear | LoraLinear, config: Any, adapter: str = "default") -> Update:
    """The update that a restart would add to this layer now. Its tensors are copies on the CPU."""
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
        return Update(name, {"M": sharded.whole(layer.mora_M[adapter].detach()).to("cpu", copy=True)}, arguments)
    factors = {"A": layer.lora_A[adapter].weight, "B": layer.lora_B[adapter].weight}
    tensors = {key: sharded.whole(weight.detach()).to("cpu", copy=True) for key, weight in factors.items()}
    return Update(name, tensors, {"scale": float(layer.scaling[adapter])})


def base_weight(layer: Any) -> Tensor:
    """The base weight of a layer, with or without adapters, as (d, k). The result is a view, also for a Conv1D."""
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return base.weight.T if isinstance(base, Conv1D) else base.weight


@torch.no_grad()
def reset_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    how: str = "zero",
    ratio: float = 0.9,
) -> int:
    """Clear the Adam moments of `parameters` in place. The state of all other parameters stays as it is.

    If several ranks train the model, all must call this function.

    Args:
        optimizer: AdamW, or another optimizer with the state `exp_avg`, `exp_avg_sq` and `step`; also in a wrapper of
            accelerate.
        parameters: The parameters whose state is cleared, usually those of the adapter.
        how: `zero` sets the moments, AMSGrad's too, and the step count to 0, as in a new optimizer. `magnitude` and
            `random` follow ReLoRA (arXiv 2307.05695) and keep the step count: `magnitude` sets the entries of each
            moment with the smallest absolute values to 0, `random` sets random entries to 0.
        ratio: For `magnitude` and `random`: the share of each moment's entries that is set to 0.

    Returns:
        The number of parameters whose state was cleared: those with which the optimizer has stepped before.

    Raises:
        ValueError: `how` is unknown, `ratio` is outside (0, 1], `check_optimizer` refuses the optimizer, or it has none
            of the parameters: under FSDP2 they may be whole copies, which the model has for a while.
    """
    check_optimizer(optimizer)
    optimizer = innermost_optimizer(optimizer)
    if how not in ("zero", "magnitude", "random"):
        raise ValueError(f"how must be one of zero, magnitude, random, got {how!r}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio!r}")
    parameters = list(parameters)
    known = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if parameters and known.isdisjoint(parameters):
        raise ValueError(f"none of the {len(parameters)} parameters to reset is in the param_groups of the optimizer")
    count = 0
    for parameter in parameters:
        state = optimizer.state.get(parameter)
        if not state:
            continue
        count += 1
        for name in (name for name in MOMENTS if name in state):
            moment = state[name]
            if how == "zero":
                moment.zero_()
                continue
            entries = sharded.whole(moment).flatten()
            if how == "magnitude":
                entries[entries.abs().topk(round(ratio * entries.numel()), largest=False).indices] = 0
            else:
                entries.mul_(sharded.from_first_rank(torch.rand_like(entries)) >= ratio)
            sharded.write_(moment, entries.view(moment.shape))
        if how == "zero":
            state["step"] *= 0  # in place for a tensor; some optimizers count with a number
    return count
