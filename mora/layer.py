"""MoraLinear: a frozen layer and, beside it, one small square matrix per adapter.

    h = W x + decompress(M compress(dropout(x)))          (arXiv 2405.12130, Eq. 2)

Legend: k = in_features, d = out_features, q = r_hat. W: (d, k), in transformers' Conv1D (k, d). M: (q, q).
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.pytorch_utils import Conv1D

from . import fused
from .config import MoraConfig
from .grouped import Grouped
from .operators import Operator


class MoraLayer(BaseTunerLayer):
    """What a layer keeps for each of its MoRA adapters."""

    adapter_layer_names = ("mora_M",)
    other_param_names = ("mora_r", "mora_operator", "mora_dropout")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(), get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass")
        )
        self.mora_r: dict[str, int] = {}
        self.mora_operator: dict[str, Operator] = {}
        self.mora_dropout = nn.ModuleDict()
        self.mora_M = nn.ParameterDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True
        in_features, out_features = _get_in_out_features(self.get_base_layer())
        if in_features is None or out_features is None:
            raise TypeError(f"MoRA adapts linear layers, not {type(base_layer).__name__}")
        self.in_features, self.out_features = in_features, out_features

    def update_layer(self, adapter_name: str, config: MoraConfig, inference_mode: bool = False, **kwargs: Any) -> None:
        """Add the adapter `adapter_name`; its M has shape (r_hat, r_hat)."""
        operator = config.build_operator(self.in_features, self.out_features)
        self.mora_r[adapter_name] = config.r
        self.mora_operator[adapter_name] = operator
        self.mora_dropout[adapter_name] = nn.Dropout(config.mora_dropout) if config.mora_dropout else nn.Identity()
        self.mora_M[adapter_name] = nn.Parameter(torch.zeros(operator.r_hat, operator.r_hat))
        if not config.init_weights:
            nn.init.kaiming_uniform_(self.mora_M[adapter_name], a=math.sqrt(5))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def scale_layer(self, scale: float) -> None:
        """Part of PEFT's interface; MoRA has no scale."""
        if scale != 1:
            warnings.warn("MoRA adds its update at scale 1; scaling is not supported and was ignored.", stacklevel=2)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Part of PEFT's interface; MoRA has no scale."""
        if scale not in (None, 1):
            warnings.warn("MoRA adds its update at scale 1; scaling is not supported and was ignored.", stacklevel=2)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Exact at LoRA rank r_hat for truncation and sharing. Blocks give an update of full rank: not convertible."""
        return isinstance(self.mora_operator.get(adapter_name), Grouped)


class _Copy:
    """A copy of a base layer, as PEFT's backends write to one: they are handed what owns it."""

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = copy.deepcopy(base_layer)

    def get_base_layer(self) -> nn.Module:
        return self.base_layer


class MoraLinear(nn.Module, MoraLayer):
    """MoRA on a linear layer, plain, quantized or transposed (Conv1D).

    Args:
        base_layer: The frozen layer, k -> d.
        adapter_name: Name of the first adapter.
        config: Its configuration.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: MoraConfig, **kwargs: Any) -> None:
        super().__init__()
        MoraLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config=config, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., k) -> (..., d)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [name for name in self.active_adapters if name in self.mora_M]
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        operators = [self.mora_operator[name] for name in names]
        if torch.compiler.is_compiling() or not all(fused.pays(operator, x) for operator in operators):
            # The compiler fuses the plain composition by itself, and with what surrounds the layer.
            result = self.base_layer(x, *args, **kwargs)
            for name, operator in zip(names, operators, strict=True):
                M, inputs = self.mora_M[name], self.mora_dropout[name](x)
                update = operator.apply(self._cast_input_dtype(inputs, M.dtype), M)
                result = result + update.to(result.dtype)
            return result
        if self._base_is_a_product(x) and not self._drops(names[0]):
            base: Any = self.base_layer
            first, *names = names
            result = fused.linear(x, base.weight, base.bias, self.mora_M[first], self.mora_operator[first])
        else:
            result = self.base_layer(x, *args, **kwargs)
            if not self._owns_base_output:
                result = result.clone(memory_format=torch.contiguous_format)
        for name in names:
            inputs, M = self.mora_dropout[name](x), self.mora_M[name]
            result = fused.add_update(result, inputs, M, self.mora_operator[name])
        return result

    def _drops(self, name: str) -> bool:
        dropout = self.mora_dropout[name]
        return isinstance(dropout, nn.Dropout) and dropout.training

    def _base_is_a_product(self, x: Tensor) -> bool:
        # Then it need not be called: nobody is to see its input or output, and it is frozen.
        base: Any = self.base_layer
        if type(base) is not nn.Linear or type(base.weight) is not nn.Parameter or "forward" in vars(base):
            return False
        watched = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks
        trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        plain = not watched and not trained and self.quantization_backend is None and not _has_any_global_hook()
        return plain and x.dtype == base.weight.dtype and not torch.is_autocast_enabled(x.device.type)

    @property
    def _owns_base_output(self) -> bool:
        # A linear layer neither keeps its output nor saves it for its own backward pass, so the update may be added
        # in place. Other layers and hooks may do either.
        plain = type(self.base_layer) in (nn.Linear, Conv1D) and self.quantization_backend is None
        return plain and not self.base_layer._forward_hooks

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The update of one adapter in the layout of the base weight, in the dtype of M."""
        delta = self.mora_operator[adapter].delta_weight(self.mora_M[adapter].detach())
        return delta.T if self._transposed else delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters into the base weight.

        Args:
            safe_merge: Merge into a copy and check it before the base weight is replaced.
            adapter_names: Which ones; the active ones by default.

        Raises:
            ValueError: With `safe_merge`, when the merged weight is not finite. Always, when the base layer is
                quantized and its format would round the merged weight. The base weight is then untouched.
            TypeError: The base layer is quantized in a way that PEFT cannot write back.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.mora_M:
                continue
            weight = self.get_base_weight()
            if safe_merge:
                weight = weight.clone()
            self._add_delta_(weight, name)
            if self.quantization_backend is not None:
                self._refuse_rounding(weight, name)
            if safe_merge and not torch.isfinite(weight).all():
                raise ValueError(
                    f"the merged weight is not finite: adapter {name!r} on {self._describe(name)} is broken"
                )
            self.set_base_weight(weight)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take every merged adapter out of the base weight again (equal up to rounding)."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight = self.get_base_weight()
            self._add_delta_(weight, name, sign=-1.0)
            self.set_base_weight(weight)

    @torch.no_grad()
    def _add_delta_(self, weight: Tensor, adapter: str, sign: float = 1.0) -> None:
        target = weight.T if self._transposed else weight
        M = self.mora_M[adapter].to(weight.device)
        self.mora_operator[adapter].add_delta_(target, M, sign)

    def _refuse_rounding(self, merged: Tensor, adapter: str) -> None:
        # What would be stored is tried on a copy. The steps between quantized weights are often larger than an update.
        trial = _Copy(self.get_base_layer())
        assert self.quantization_backend is not None
        self.quantization_backend.set_base_weight(trial, merged.clone())
        lost = (self.quantization_backend.get_base_weight(trial.base_layer).to(merged.dtype) - merged).norm()
        if lost <= torch.finfo(merged.dtype).eps * merged.norm():
            return
        share = (lost / self.get_delta_weight(adapter).norm()).item()
        raise ValueError(
            f"the base weight is quantized ({self.quantization_backend.backend_name}): storing the merged weight in "
            f"its format would be off by {share:.3g} times the update (Frobenius norm) on {self._describe(adapter)}. "
            "Nothing was changed. Keep the adapter beside the base, or dequantize the base model, load the adapter "
            "onto that, and merge: there it is exact"
        )

    @property
    def _transposed(self) -> bool:
        return isinstance(self.get_base_layer(), Conv1D)

    def _describe(self, adapter: str) -> str:
        r, r_hat = self.mora_r[adapter], self.mora_operator[adapter].r_hat
        return f"a layer with in={self.in_features}, out={self.out_features}, r={r}, r_hat={r_hat}"

    def __repr__(self) -> str:
        return "mora." + super().__repr__()

    def extra_repr(self) -> str:
        """Name the quantization of the base layer, where there is one."""
        return quantization_extra_repr(self)
