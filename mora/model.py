"""MoraModel: replaces each target layer of a model by a MoraLinear."""

from __future__ import annotations

from typing import Any

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .config import MoraConfig
from .layer import MoraLayer, MoraLinear


class MoraModel(BaseTuner):
    """A model whose target layers have MoRA adapters. ``peft.get_peft_model(model, MoraConfig(...))`` builds it.

    Args:
        model: The base model.
        config: A `MoraConfig`.
        adapter_name: The name of the adapter. PEFT's default is "default".
        low_cpu_mem_usage: Whether the adapter's weights stay on the meta device, without memory, until they are loaded.
    """

    prefix = "mora_"
    tuner_layer_cls = MoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def _create_and_replace(  # type: ignore[override]  # PEFT passes the configuration class of the tuner
        self,
        mora_config: MoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        if isinstance(target, MoraLayer):
            target.update_layer(
                adapter_name,
                config=mora_config,
                r=mora_config.rank_of(current_key),
                inference_mode=mora_config.inference_mode,
            )
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        backend = resolve_quantization_backend(base)
        supported = backend.layer_type == "linear" if backend else isinstance(base, (nn.Linear, Conv1D))
        if not supported:
            raise TypeError(
                f"{current_key} is a {type(base).__name__}: MoRA adapts torch.nn.Linear, transformers' Conv1D, "
                "and linear layers quantized by a backend that PEFT supports"
            )
        module = MoraLinear(
            target,
            adapter_name,
            config=mora_config,
            r=mora_config.rank_of(current_key),
            inference_mode=mora_config.inference_mode,
            **get_quantization_kwargs(self),
        )
        if adapter_name not in self.active_adapters:
            module.requires_grad_(False)
        self._replace_module(parent, target_name, module, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Check the tensors of an adapter file. PEFT calls this method after reading the file, before using it.

        PEFT loads the tensors that match the model and only warns about missing ones, so a model with half an adapter
        would run. This method therefore refuses such a file.

        Raises:
            ValueError: The matrices in the file are not exactly the matrices of this adapter, or a value is not finite.
        """
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        expected = {plain(name) for name, _ in model.named_parameters() if name.endswith(f".mora_M.{adapter_name}")}
        tensors = {plain(name): tensor for name, tensor in remapped.items() if ".mora_" in name}
        differences = {
            "is missing in the file": expected - tensors.keys(),
            "is not in the model": tensors.keys() - expected,
        }
        for problem, names in differences.items():
            if names:
                raise ValueError(
                    f"the file does not fit adapter {adapter_name!r} of this model: {min(names)} {problem} "
                    f"(and {len(names) - 1} more); was it saved from another model or with other target_modules?"
                )
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"the file of adapter {adapter_name!r} is broken: {name} holds NaN or infinity")
        return remapped


def plain(name: str) -> str:
    """The name of a tensor without the prefix that a PeftModel adds."""
    return name.removeprefix("base_model.model.")
