"""Method name -> how a model is adapted, and which of its parameters train at which rate.

A method is one function here and one file in conf/method/. The function gets the base model and the configuration
and returns an `Adapted`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

import mora

from ..errors import ConfigError
from ..spec.run_config import RunConfig


@dataclass(frozen=True)
class Adapted:
    """A model ready to train.

    Attributes:
        model: The model, with its adapters if it has any; what does not train has requires_grad False.
        rates: Parameter name -> what the learning rate of the run is multiplied by, where that is not 1.
    """

    model: nn.Module
    rates: dict[str, float]


METHODS: dict[str, Callable[[Any, RunConfig], Adapted]] = {}


def method(name: str) -> Callable[[Callable[[Any, RunConfig], Adapted]], Callable[[Any, RunConfig], Adapted]]:
    """Register a function as the method `name`."""

    def register(adapt: Callable[[Any, RunConfig], Adapted]) -> Callable[[Any, RunConfig], Adapted]:
        METHODS[name] = adapt
        return adapt

    return register


def adapt(model: Any, config: RunConfig) -> Adapted:
    """Adapt `model` in place as `config.method` says.

    Raises:
        ConfigError: The method is not known, or does not fit the model.
    """
    name = config.method.name
    if name not in METHODS:
        raise ConfigError(f"method.name must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name](model, config)


@method("none")
def untouched(model: Any, config: RunConfig) -> Adapted:
    """The base model, measured and not trained."""
    return Adapted(model.requires_grad_(False), {})


@method("fft")
def full(model: Any, config: RunConfig) -> Adapted:
    """Full fine-tuning: every parameter trains."""
    return Adapted(model.requires_grad_(True), {})


@method("lora")
def low_rank(model: Any, config: RunConfig) -> Adapted:
    """LoRA (Eq. 1). Trainable: r (in + out) a layer."""
    return Adapted(_wrap(model, _lora_config(config), config), {})


@method("lora_plus")
def two_rates(model: Any, config: RunConfig) -> Adapted:
    """LoRA+: LoRA whose B learns `lr_ratio` times as fast. Trainable: r (in + out) a layer."""
    assert config.method.lr_ratio is not None
    wrapped = _wrap(model, _lora_config(config), config)
    return Adapted(wrapped, {n: config.method.lr_ratio for n, _ in wrapped.named_parameters() if "lora_B" in n})


@method("asylora")
def orthogonal(model: Any, config: RunConfig) -> Adapted:
    """LoRA whose A starts with orthonormal rows. Trainable: r (in + out) a layer.

    AsyLoRA takes A from the right singular vectors of a random matrix and freezes it; the paper uses the
    initialisation alone and trains A. The right singular vectors of any Gaussian matrix with `in` columns are
    distributed alike, so the small (r, in) one serves, and large layers need no large decomposition.
    """
    wrapped = _wrap(model, _lora_config(config), config)
    for name, parameter in wrapped.named_parameters():
        if "lora_A" in name:
            gaussian = torch.randn(parameter.shape, dtype=torch.float32)
            parameter.data.copy_(torch.linalg.svd(gaussian, full_matrices=False).Vh)
    return Adapted(wrapped, {})


@method("dora")
def decomposed(model: Any, config: RunConfig) -> Adapted:
    """DoRA: magnitude and direction apart. Trainable: r (in + out) + out a layer."""
    return Adapted(_wrap(model, _lora_config(config, use_dora=True), config), {})


@method("relora")
def low_rank_restarted(model: Any, config: RunConfig) -> Adapted:
    """ReLoRA: LoRA, merged and started anew as `restarts.py` says. Trainable: r (in + out) a layer."""
    return low_rank(model, config)


@method("remora")
def square_restarted(model: Any, config: RunConfig) -> Adapted:
    """ReMoRA: MoRA, merged, regrouped and started anew. Trainable: floor(sqrt((in + out) r)) ** 2 a layer."""
    return square(model, config)


@method("mora")
def square(model: Any, config: RunConfig) -> Adapted:
    """MoRA (Eq. 2). Trainable: floor(sqrt((in + out) r)) ** 2 a layer."""
    return Adapted(_wrap(model, _mora_config(config), config), {})


def _lora_config(config: RunConfig, **options: Any) -> LoraConfig:
    m: Any = config.method  # a method composes all the settings that it reads here
    return LoraConfig(
        r=m.rank,
        lora_alpha=m.alpha,
        lora_dropout=m.dropout,
        target_modules=list(m.target_modules or []),
        task_type="CAUSAL_LM",
        **options,
    )


def _mora_config(config: RunConfig) -> mora.MoraConfig:
    m: Any = config.method
    return mora.MoraConfig(
        r=m.rank,
        operator=m.operator,
        in_groups=m.in_groups,
        out_groups=m.out_groups,
        wrap=m.wrap,
        surplus=m.surplus,
        mora_dropout=m.dropout,
        target_modules=list(m.target_modules or []),
        task_type="CAUSAL_LM",
    )


def _wrap(model: Any, peft_config: PeftConfig, config: RunConfig) -> PeftModel:
    policy = config.training.adapter_dtype
    # PEFT keeps adapters of half-precision models in float32 unless told otherwise.
    upcast = policy == "float32" or (policy == "official" and config.method.family == "mora")
    try:
        wrapped = get_peft_model(model, peft_config, autocast_adapter_dtype=upcast)
    except ValueError as error:
        raise ConfigError(f"method.target_modules does not fit the model: {error}") from error
    if config.method.train_rest:
        adapted = [layer for layer in wrapped.modules() if isinstance(layer, BaseTunerLayer)]
        frozen = {id(layer.get_base_layer().weight) for layer in adapted}
        for parameter in wrapped.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
    return wrapped
