"""MoraModel: finds the layers to adapt and puts a MoraLinear in the place of each."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from .config import MoraConfig
from .layer import MoraLayer, MoraLinear


class MoraModel(BaseTuner):
    """A model whose target layers carry MoRA adapters. Made by ``peft.get_peft_model(model, MoraConfig(...))``.

    Args:
        model: The base model.
        config: A `MoraConfig`.
        adapter_name: Name of the adapter, "default" unless told.
        low_cpu_mem_usage: Make the adapter's weights on the meta device, to be filled by a load.
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
            target.update_layer(adapter_name, config=mora_config, inference_mode=mora_config.inference_mode)
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
            inference_mode=mora_config.inference_mode,
            **get_quantization_kwargs(self),
        )
        if adapter_name not in self.active_adapters:
            module.requires_grad_(False)
        self._replace_module(parent, target_name, module, target)
