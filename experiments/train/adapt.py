"""A base model -> the model that trains, as the file of the method says (`conf/method/<name>.yaml`).

PEFT builds the adapter from the file's `peft` section. What PEFT does not do stands here: everything but the adapted
weights trains too (`train_rest`), parameters learn at different rates (`rate_ratios`), an adapter is initialised in
another way (`initialisation`). Restarts are in `restarts.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_config, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

import mora  # noqa: F401  (registers MoRA with PEFT)

from ..errors import ConfigError, one_line
from ..spec.run_config import Method, RunConfig


@dataclass(frozen=True)
class AdaptedModel:
    """A model ready to train.

    Attributes:
        model: The model, with its adapter if the method has one; what does not train has requires_grad False.
        rates: Parameter name -> what the learning rate of the run is multiplied by, where that is not 1.
    """

    model: nn.Module
    rates: dict[str, float]


def adapt(model: Any, config: RunConfig) -> AdaptedModel:
    """Adapt `model` in place as `config.method` says.

    Raises:
        ConfigError: PEFT does not take the method's settings, or the method does not fit the model.
    """
    m = config.method
    if m.peft is None:
        return AdaptedModel(_without_adapter(model, m), {})
    # PEFT keeps adapters of half-precision models in float32 unless it is told not to.
    policy = config.training.adapter_dtype
    in_float32 = policy == "float32" or (policy == "official" and m.official_dtype == "float32")
    try:
        wrapped = get_peft_model(model, adapter_config(m), autocast_adapter_dtype=in_float32)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"method={m.name} does not fit the model: {one_line(str(error))}") from error
    if m.initialisation is not None:
        _initialisation(m)(wrapped)
    if m.train_rest:
        adapted = [layer for layer in wrapped.modules() if isinstance(layer, BaseTunerLayer)]
        frozen = {id(layer.get_base_layer().weight) for layer in adapted}
        for parameter in wrapped.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
    rates = {
        name: ratio
        for name, _ in wrapped.named_parameters()
        for part, ratio in (m.rate_ratios or {}).items()
        if part in name
    }
    return AdaptedModel(wrapped, rates)


def adapter_config(method: Method) -> PeftConfig:
    """The configuration of PEFT that the `peft` section of a method is.

    Raises:
        ConfigError: PEFT has no such method, or the method has no such setting.
    """
    settings = {"task_type": "CAUSAL_LM", **(method.peft or {})}
    try:
        return get_peft_config(settings)
    except KeyError:
        known = ", ".join(sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING))
        raise ConfigError(f"method.peft.peft_type must be one of {known}, got {settings['peft_type']!r}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method.peft of method={method.name}: {one_line(str(error))}") from error


def _without_adapter(model: nn.Module, method: Method) -> nn.Module:
    """The model itself: all of it trains, or the weights of `target_modules`, or nothing."""
    targets = method.target_modules
    if not method.trains or targets is None:
        return model.requires_grad_(method.trains)
    model.requires_grad_(False)
    chosen = [layer for name, layer in model.named_modules() if name.rsplit(".", 1)[-1] in targets]
    if not chosen:
        raise ConfigError(f"method.target_modules: the model has no layer {', '.join(targets)}")
    for layer in chosen:
        layer.requires_grad_(True)
    return model


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
