"""A base model -> the model that trains, as the file of the method says (`conf/method/<name>.yaml`).

PEFT builds the adapter from the file's `peft` section. What PEFT does not do stands here: everything but the adapted
weights trains too (`train_rest`), parameters learn at different rates (`rate_ratios`), an adapter is initialised in
another way (`initialisation`). Restarts are in `restarts.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer, _check_lora_target_modules_mamba
from torch import nn

from ..errors import ConfigError, one_line
from ..spec import budgets, shapes, skeletons, target_modules
from ..spec.counting import adapter_config, wrapped
from ..spec.run_config import Method, RunConfig


@dataclass(frozen=True)
class AdaptedModel:
    """A model ready to train.

    Attributes:
        model: The model, with its adapter if the method has one; what does not train has requires_grad False.
        rates: Parameter name -> what the learning rate of the run is multiplied by, where that is not 1.
        notes: Lines that say what is adapted, where that is not what the run asked for, and how the budget is spent.
        budget: The parameters that the LoRA of rank `method.rank` trains on the adapted layers; None without a rank.
    """

    model: nn.Module
    rates: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    budget: int | None = None


def adapt(model: Any, config: RunConfig) -> AdaptedModel:
    """Adapt `model` in place as `config.method` says.

    Raises:
        ConfigError: PEFT does not take the method's settings, or the method does not fit the model.
    """
    m = config.method
    if m.peft is None:
        return _without_adapter(model, config)
    linears, head = skeletons.linear_layers(model)
    chosen = target_modules.of(config, linears, head, _without_effect(model, linears, config)) if m.targets else None
    layers = {name: linears[name] for name in chosen.layers} if chosen else {}
    stacked = skeletons.stacked_weights(model)
    # PEFT keeps adapters of half-precision models in float32 unless it is told not to.
    policy = config.training.adapter_dtype
    in_float32 = policy == "float32" or (policy == "official" and m.official_dtype == "float32")
    try:
        with warnings.catch_warnings():
            # LoRA sets the layout of Conv1D's weights by itself, and warns about that.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            spent = budgets.spent(_named(m, chosen, model), layers, config.paths.cache_folder)
            network = wrapped(model, adapter_config(spent), autocast_adapter_dtype=in_float32)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"method={m.name} does not fit the model: {one_line(str(error))}") from error
    adapted = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    # PEFT puts these into the number format of the base weights; the copy would train, unlike the original.
    constants = [p for layer in adapted for p in _constants(layer)]
    for constant in constants:
        constant.requires_grad_(False)
    in_stacks = {str(layer.parameter_name) for layer in adapted if hasattr(layer, "parameter_name")}
    if in_stacks and not m.peft.get("target_parameters"):
        raise ConfigError(
            f"method={m.name}: for {config.model} PEFT adapts {', '.join(sorted(in_stacks))} in place of layers that "
            "method.target_modules names, because the experts once had layers of these names; "
            "allowed: a list method.target_modules of layers outside the experts"
        )
    budget = shapes.lora_parameters(m.rank, layers.values()) if m.rank and not in_stacks else None
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if m.initialisation is not None:
        _initialisation(m)(network)
    if m.train_rest:
        # A layer on a parameter, such as a stack of experts, names the parameter.
        weights = (getattr(a.get_base_layer(), getattr(a, "parameter_name", "weight"), None) for a in adapted)
        frozen = {id(parameter) for parameter in (*constants, *weights)}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
    rates = _rates(m, network)
    left = {
        name: p for name, p in stacked.items() if target_modules.kind(name) not in in_stacks and not p.requires_grad
    }
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError(f"method={m.name}: its adapter trains no parameters")
    notes = (chosen.note if chosen else "", _of_experts(left), _of_budget(spent, trainable, budget))
    return AdaptedModel(network, rates, tuple(filter(None, notes)), budget)


def _rates(method: Method, network: nn.Module) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied by, where the method says so.

    Where two parts stand in one name, the last part of the list counts.

    Raises:
        ConfigError: A part stands in the name of no trained parameter, so its ratio would have no effect.
    """
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    ratios = method.rate_ratios or {}
    if absent := next((part for part in ratios if not any(part in name for name in trained)), None):
        raise ConfigError(
            f"method.rate_ratios names {absent!r}, and no trained parameter has this in its name; allowed: parts of "
            f"names such as {', '.join(trained[:3])}"
        )
    names = (name for name, _ in network.named_parameters())
    return {name: ratio for name in names for part, ratio in ratios.items() if part in name}


def _constants(layer: BaseTunerLayer) -> Iterator[nn.Parameter]:
    """What an adapter holds as parameters but does not train, such as the number of ranks that AdaLoRA has kept."""
    for name in layer.other_param_names:
        held = getattr(layer, name, None)
        if isinstance(held, nn.ParameterDict):
            yield from held.values()


def _without_effect(model: nn.Module, layers: Iterable[str], config: RunConfig) -> set[str]:
    """The layers whose weights the model reads without calling the layers, on a CPU or in the fast code for GPUs."""

    def refused_by_peft(layer: str) -> bool:
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, target_modules.kind(layer))
        except ValueError:
            return True
        return False

    shape = skeletons.shape_of(config.model, config.paths.cache_folder)
    return {*shape.uncalled, *filter(refused_by_peft, layers)}


def _named(method: Method, chosen: target_modules.Targets | None, model: nn.Module) -> Method:
    """The method with the names of the layers that are adapted, where its targets are no list, or not in force."""
    if chosen is None or (isinstance(method.targets, list) and not chosen.note):
        return method
    names = target_modules.shortest(chosen.layers, (name for name, _ in model.named_modules()))
    return method.replace(peft=(method.peft or {}) | {"target_modules": names})


def _of_budget(method: Method, trainable: int, budget: int | None) -> str:
    """A line about the settings that spend the budget, or about a budget that is exceeded; empty where neither is."""
    if budget is None or (method.budget is None and trainable <= budget):
        return ""
    names = [] if method.budget is None else [method.budget, *(method.budget_choices or {})]
    if method.budget_pattern and (method.peft or {}).get(method.budget_pattern):
        names.append(method.budget_pattern)
    settings = " and ".join(f"method.peft.{name} is {(method.peft or {})[name]}" for name in names)
    more = f", {trainable / budget - 1:.1%} more than the budget" if trainable > budget else ""
    line = f"the method trains {trainable:,} parameters{more}, and a LoRA of rank {method.rank} trains {budget:,}"
    return ": ".join(filter(None, [settings, line]))


def _of_experts(left: dict[str, nn.Parameter]) -> str:
    """A line about weights that no adapter changes although most of the model may lie in them; empty without these."""
    if not left:
        return ""
    names = list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in left))
    return (
        f"no adapter changes {', '.join(names)} ({sum(p.numel() for p in left.values()):,} parameters): these weights "
        "are stacks of the experts' matrices, not linear layers; "
        f"+method.peft.target_parameters=[{','.join(names)}] adapts them where the method can"
    )


def _without_adapter(model: nn.Module, config: RunConfig) -> AdaptedModel:
    """The model itself: all of it trains, or the weights of `target_modules`, or nothing."""
    m = config.method
    if not m.trains or m.targets is None:
        return AdaptedModel(model.requires_grad_(m.trains), _rates(m, model))
    chosen = target_modules.of(config, *skeletons.linear_layers(model))
    model.requires_grad_(False)
    for name in chosen.layers:
        model.get_submodule(name).requires_grad_(True)
    return AdaptedModel(model, _rates(m, model), notes=tuple(filter(None, [chosen.note])))


def orthonormal(model: PeftModel) -> None:
    """Start LoRA's A with orthonormal rows.

    AsyLoRA takes A from the right singular vectors of a random matrix and freezes it; the paper uses the initialisation
    alone and trains A. The right singular vectors of every Gaussian matrix with `in` columns have the same
    distribution, so the singular vectors of the small (r, in) matrix serve, and no large matrix is decomposed.
    """
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            gaussian = torch.randn(parameter.shape, dtype=torch.float32)
            parameter.data.copy_(torch.linalg.svd(gaussian, full_matrices=False).Vh)


INITIALISATIONS: dict[str, Callable[[PeftModel], None]] = {"orthonormal": orthonormal}


def _initialisation(method: Method) -> Callable[[PeftModel], None]:
    if method.initialisation not in INITIALISATIONS:
        raise ConfigError(
            f"method.initialisation must be one of {', '.join(INITIALISATIONS)}, got {method.initialisation!r}"
        )
    return INITIALISATIONS[method.initialisation]
