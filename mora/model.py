"""MoraModel: replaces each target layer of a model by a MoraLinear."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _check_lora_target_modules_mamba
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    AuxiliaryTrainingWrapper,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from .config import MoraConfig, config_of
from .experts import ParamWrapper
from .layer import MoraLayer, MoraLinear
from .operators import Operator

# Modules that read the weights of their own linear layers without calling these layers: the attention always, the
# encoder layer in evaluation mode.
READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
# Layers that PEFT's LoRA adapts and MoRA does not adapt.
REASONS = {
    nn.Embedding: "An embedding looks up a row of its weight: it has no input vector that an operator could compress",
    _ConvNd: "A convolution has one matrix for each position of its kernel",
    nn.MultiheadAttention: "It reads the weights of its layers without calling the layers",
}


# The models that multiply by the weight of their layer dt_proj, which PEFT's list of such layers does not name.
MAMBA = ("mamba", "falcon_mamba", "jamba")


class NotCalledError(ValueError):
    """A model reads the weight of a target layer without calling the layer, so an adapter would have no effect."""

    def __init__(self, layer: str, reader: str) -> None:
        super().__init__(
            f"{layer}: a {reader} reads the weight of this layer without calling the layer, so an adapter would have "
            "no effect; leave the layer out of target_modules, or name it in exclude_modules"
        )


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
        parameter_name: str | None = None,
        **optional_kwargs: Any,
    ) -> None:
        # A wrapper of another parameter of the same module gets a wrapper around it.
        if isinstance(target, MoraLayer) and getattr(target, "parameter_name", None) == parameter_name:
            target.update_layer(
                adapter_name,
                config=mora_config,
                r=mora_config.rank_of(current_key),
                inference_mode=mora_config.inference_mode,
            )
            return
        if isinstance(parent, READERS):
            raise NotCalledError(current_key, type(parent).__name__)
        options = {
            "config": mora_config,
            "r": mora_config.rank_of(current_key),
            "inference_mode": mora_config.inference_mode,
            **get_quantization_kwargs(self),
        }
        module: nn.Module
        if parameter_name is not None:
            module = ParamWrapper(target, adapter_name, parameter_name=parameter_name, **options)
        else:
            self._check_layer(target, current_key)
            module = MoraLinear(target, adapter_name, **options)
        if adapter_name not in self.active_adapters:
            module.requires_grad_(False)
        self._replace_module(parent, target_name, module, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, ParamWrapper) and not isinstance(new_module, ParamWrapper):
            setattr(parent, child_name, new_module)  # the module of experts itself; PEFT would give it a weight
            return
        super()._replace_module(parent, child_name, new_module, child)

    @staticmethod
    def _check_layer(target: nn.Module, current_key: str) -> None:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        backend = resolve_quantization_backend(base)
        supported = backend.layer_type == "linear" if backend else isinstance(base, (nn.Linear, Conv1D))
        if not supported:
            raise TypeError(
                f"{current_key} is a {type(base).__name__}: MoRA adapts torch.nn.Linear, transformers' Conv1D, "
                "and linear layers quantized by a backend that PEFT supports"
                + next((f". {reason}" for kind, reason in REASONS.items() if isinstance(base, kind)), "")
            )

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> PeftConfig:
        if peft_config.target_modules is None and peft_config.target_parameters:
            return peft_config  # only parameters are adapted
        return super()._prepare_adapter_config(peft_config, model_config)

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Refuse a target layer that is a parameter: PEFT would adapt the other targets and skip this one.

        Raises:
            ValueError: `target_modules` names a parameter of experts and no layer, or it names no layer of a model
                whose experts are parameters: w1, w2 and w3 were the names of Mixtral's experts when they were layers.
        """
        targets = peft_config.target_modules
        if not isinstance(targets, set | list | tuple):
            return
        layers = [f".{name}" for name, _ in model.named_modules()]
        fused = {name.rpartition(".")[2]: name for name, p in model.named_parameters() if p.ndim == 3}
        experts = _parameters_of_experts(model)
        for target in sorted(targets):
            name = target.rpartition(".")[2]
            if name in fused and not any(layer.endswith(f".{name}") for layer in layers):
                raise ValueError(
                    f"target_modules: {target} is no layer but a parameter for all experts, {fused[name]}; "
                    f"name it in target_parameters: target_parameters=[{name!r}]"
                )
            if experts and not any(layer.endswith(f".{target}") for layer in layers):
                raise ValueError(
                    f"target_modules: {target} is no layer, and the experts of this model are parameters; "
                    f"leave it out, and name the experts in target_parameters: target_parameters={experts}"
                )

    def _check_new_adapter_config(self, config: Any) -> None:
        """Refuse other `target_parameters` than those of the adapters before.

        Raises:
            ValueError: The wrappers around the parameters of one module would be in another order.
        """
        super()._check_new_adapter_config(config)
        adapters: dict[str, Any] = self.peft_config
        for name, other in adapters.items():
            both = config.target_parameters and other.target_parameters
            if both and set(config.target_parameters) != set(other.target_parameters):
                raise ValueError(
                    f"all adapters must have the same target_parameters; adapter {name!r} has "
                    f"{sorted(other.target_parameters)}, the new adapter {sorted(config.target_parameters)}"
                )

    def _check_target_module_compatiblity(self, peft_config: PeftConfig, model: nn.Module, target_name: str) -> None:
        """Refuse the layers that PEFT refuses for LoRA, and dt_proj: Mamba reads their weights without calling them.

        Raises:
            ValueError: An adapter on this layer would have no effect.
        """
        architecture = getattr(getattr(model, "config", None), "model_type", None)
        is_read = architecture in MAMBA and target_name.rpartition(".")[2] == "dt_proj"
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, target_name)  # the list of PEFT is for LoRA
        except ValueError:
            is_read = True
        if is_read:
            raise NotCalledError(target_name, f"model of type {architecture!r}")

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Give each layer the `adapter_names` of a mixed batch. PEFT calls this around `forward` and `generate`.

        Raises:
            ValueError: The model is in training mode, or a name is no adapter, or PEFT's other argument of this kind,
                `alora_offsets`, is used: it belongs to a variant of LoRA.
        """
        if kwargs.get("alora_offsets") is not None:
            raise ValueError("alora_offsets belongs to a variant of LoRA, which MoRA does not have")
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        self._check_adapter_names(names)
        copies = _copies_of_a_row(self.model, kwargs)

        def add_names(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
            # `generate` repeats each row for the decoder, not for an encoder.
            repeat = copies if inputs and len(inputs[0]) != len(names) else 1
            return inputs, options | {"adapter_names": [name for name in names for _ in range(repeat)]}

        with contextlib.ExitStack() as stack:
            for module in self.modules():
                if isinstance(module, MoraLayer | AuxiliaryTrainingWrapper):
                    stack.callback(module.register_forward_pre_hook(add_names, with_kwargs=True).remove)
            yield

    def _check_adapter_names(self, names: Sequence[str]) -> None:
        if self.training:
            raise ValueError("adapter_names is for inference: call model.eval() first")
        unknown = set(names) - {"__base__"} - self.peft_config.keys()
        if unknown:
            allowed = ", ".join(["__base__", *self.peft_config])
            raise ValueError(f"adapter_names has the unknown name {min(unknown)!r}; allowed: {allowed}")

    @torch.no_grad()
    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "linear",
    ) -> None:
        """Add an adapter whose update is the weighted sum of the updates of other adapters.

        The sum is exact, because an update is linear in M. It exists only if all adapters have the same operator and
        the same r_hat in the same layers. The new adapter is not active, and its M has the dtype of the first adapter.

        Args:
            adapters: The names of the adapters.
            weights: The weight of each adapter.
            adapter_name: The name of the new adapter.
            combination_type: Only `linear`. PEFT's other ways of combining LoRAs change the ranks of their factors.

        Raises:
            ValueError: The sum is no MoRA adapter, or a name or `combination_type` is not allowed.
        """
        if combination_type != "linear":
            raise ValueError(f"combination_type must be linear, got {combination_type!r}")
        if not adapters or len(adapters) != len(weights):
            raise ValueError(f"each adapter needs one weight, got {len(adapters)} adapters and {len(weights)} weights")
        for name in adapters:
            config = config_of(self, name)
            if config.bias != "none" or config.modules_to_save:
                raise ValueError(f"adapter {name!r} has trained biases or modules_to_save, which have no weighted sum")
        if adapter_name in self.peft_config:
            raise ValueError(f"there is an adapter {adapter_name!r} already")
        if not adapter_name or "." in adapter_name:  # torch.nn.ParameterDict would refuse it half way
            raise ValueError(f"adapter_name must be a name without a dot, got {adapter_name!r}")
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"weights must be finite, got {list(weights)}")
        first = self._operators(adapters[0])
        for name in adapters[1:]:
            if self._operators(name) != first:
                raise ValueError(
                    f"adapters {adapters[0]!r} and {name!r} differ in their layers, their operator or their r_hat: the "
                    "sum of their updates is no MoRA adapter. Merge the adapters one after the other instead"
                )
        self.peft_config[adapter_name] = copy.deepcopy(self.peft_config[adapters[0]])
        self.inject_adapter(self.model, adapter_name)
        for layer in self.modules():
            if isinstance(layer, MoraLayer) and adapter_name in layer.mora_M:
                total = sum(weight * layer.mora_M[name] for name, weight in zip(adapters, weights, strict=True))
                layer.mora_M[adapter_name] = nn.Parameter(
                    total.to(layer.mora_M[adapters[0]].dtype), requires_grad=False
                )

    def _operators(self, adapter: str) -> dict[str, Operator]:
        """The operator of the adapter in each layer, by the name of the layer."""
        return {
            name: module.mora_operator[adapter]
            for name, module in self.model.named_modules()
            if isinstance(module, MoraLayer) and adapter in module.mora_M
        }

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


def _parameters_of_experts(model: nn.Module) -> list[str]:
    """The parameters that hold the weights of all experts, by the ends of their names: `experts.down_proj`."""
    return sorted(
        {
            f"{name.replace('.base_layer', '').rpartition('.')[2]}.{parameter}"
            for name, module in model.named_modules()
            if type(module).__name__.endswith("Experts")
            for parameter, p in module.named_parameters(recurse=False)
            if p.ndim == 3
        }
    )


def _copies_of_a_row(model: nn.Module, options: dict[str, Any]) -> int:
    """How often `generate` repeats each row of its input: once for each beam, or for each sequence that it returns."""
    settings = options.get("generation_config") or getattr(model, "generation_config", None)
    counts = (options.get(name) or getattr(settings, name, None) for name in ("num_beams", "num_return_sequences"))
    return max(count or 1 for count in counts)
