"""MoraLinear: a frozen linear layer with one small square matrix for each adapter.

    h = W x + decompress(M compress(dropout(x)))          (arXiv 2405.12130, Eq. 2)

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions. x: (..., k). h: (..., d).
W: (d, k), but (k, d) in a Conv1D of transformers. M: (q, q).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.pytorch_utils import Conv1D

from . import fused, sharded
from .config import MoraConfig
from .factored import Factored
from .grouped import Grouped
from .operators import Operator

# The methods before anybody has replaced them.
FORWARDS: dict[type[nn.Module], Any] = {nn.Linear: nn.Linear.forward, Conv1D: Conv1D.forward}


class MoraLayer(BaseTunerLayer):
    """The state of a layer for each of its MoRA adapters, by adapter name, and the merging of adapters.

    Attributes:
        mora_M: The trainable matrix M, (q, q).
        mora_r: The rank of the LoRA with the same parameter budget.
        mora_operator: The operator, with the sizes of this layer.
        mora_dropout: The dropout on the input of the adapter.

    Raises:
        TypeError: The base layer is not linear.
    """

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
        self.merged_into_shards = False
        self.cast_input_dtype_enabled = True
        self.in_features, self.out_features = self._sizes()

    def _sizes(self) -> tuple[int, int]:
        """The sizes of the input and the output: k and d."""
        in_features, out_features = _get_in_out_features(self.get_base_layer())
        if in_features is None or out_features is None:
            raise TypeError(f"MoRA adapts linear layers, got {type(self.get_base_layer()).__name__}")
        return in_features, out_features

    @property
    def experts(self) -> tuple[int, ...]:
        """The shape of the stack of Ms: empty for one M, (experts,) if the layer has an M for each expert."""
        return ()

    def update_layer(
        self,
        adapter_name: str,
        config: MoraConfig,
        r: int | None = None,
        inference_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        """Add the adapter `adapter_name` with an M of shape (q, q), for the rank `r` (default: that of `config`)."""
        r = r or config.r
        operator = config.build_operator(self.in_features, self.out_features, r)
        self.mora_r[adapter_name] = r
        self.mora_operator[adapter_name] = operator
        self.mora_dropout[adapter_name] = nn.Dropout(config.mora_dropout) if config.mora_dropout else nn.Identity()
        M = torch.zeros(*self.experts, operator.r_hat, operator.r_hat)
        if not config.init_weights:
            nn.init.uniform_(M, -(operator.r_hat**-0.5), operator.r_hat**-0.5)  # the spread of nn.Linear
        self.mora_M[adapter_name] = nn.Parameter(M)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def scale_layer(self, scale: float) -> None:
        """Part of PEFT's interface. MoRA has no scale: the method only warns if `scale` is not 1."""
        if scale != 1:
            warnings.warn("MoRA adds its update at scale 1; scaling is not supported and was ignored.", stacklevel=2)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Part of PEFT's interface. MoRA has no scale: the method only warns if `scale` is not 1."""
        if scale not in (None, 1):
            warnings.warn("MoRA adds its update at scale 1; scaling is not supported and was ignored.", stacklevel=2)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether a LoRA of rank r_hat equals the adapter: true for truncation, sharing and randproj, else false."""
        return isinstance(self.mora_operator.get(adapter_name), Factored)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The update of the adapter in the dtype of M: (d, k), or (k, d) for a Conv1D, as the base weight.

        If M is sharded, every rank gets the whole update, and all ranks must call this method.
        """
        delta = self.mora_operator[adapter].delta_weight(sharded.whole(self.mora_M[adapter].detach()))
        return delta.T if self._transposed else delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of adapters to the base weight. If the weight is sharded, each rank adds its own part.

        Args:
            safe_merge: Whether to merge into a copy and to check the copy before it replaces the base weight.
            adapter_names: The adapters to merge. None: the active adapters.

        Raises:
            ValueError: The merged weight is not finite (checked only with `safe_merge`), or the base layer is quantized
                and its format would round the merged weight, or the weight is sharded and the operator is neither
                sharing nor truncation. In all cases the adapter is not merged; the adapters before it in the list stay
                merged.
            TypeError: The base layer is quantized by a backend that cannot write a weight.
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
            if safe_merge and not sharded.whole(torch.isfinite(weight).all()):
                raise ValueError(
                    f"the merged weight is not finite: adapter {name!r} on {self._describe(name)} is broken"
                )
            if sharded.is_sharded(weight):
                self.get_base_weight().copy_(weight)  # the memory is FSDP's: the weight cannot be replaced
            else:
                self.set_base_weight(weight)
            self.merged_adapters.append(name)
            self.merged_into_shards = sharded.is_sharded(weight)

    def unmerge(self) -> None:
        """Subtract the update of every merged adapter from the base weight. The result is exact up to rounding.

        Raises:
            ValueError: The weight was sharded when it was merged and is whole now, as in a forward pass, or the weight
                is sharded and the operator is neither sharing nor truncation. The adapter stays merged.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name, weight = self.merged_adapters[-1], self.get_base_weight()
            if self.merged_into_shards and not sharded.is_sharded(weight):
                raise ValueError(
                    f"FSDP has gathered the weight of {self._describe(name)}, and drops changes of a gathered weight: "
                    "call reshard() on the FSDP modules, then unmerge the adapter"
                )
            self._add_delta_(weight, name, sign=-1.0)
            if not sharded.is_sharded(weight):
                self.set_base_weight(weight)
            self.merged_adapters.pop()

    @torch.no_grad()
    def _add_delta_(self, weight: Tensor, adapter: str, sign: float = 1.0) -> None:
        operator = self.mora_operator[adapter]
        target, rows, columns = sharded.part(weight.T if self._transposed else weight)
        if sharded.is_sharded(weight):
            if not isinstance(operator, Grouped):
                raise ValueError(
                    f"only sharing and truncation are merged into a sharded weight, got {operator.name} on "
                    f"{self._describe(adapter)}; merge before the model is sharded, or keep the adapter unmerged"
                )
            operator = operator.part(rows, columns)
        M = sharded.whole(self.mora_M[adapter]).to(weight.device)
        operator.add_delta_(target, M, sign)

    def _refuse_rounding(self, merged: Tensor, adapter: str) -> None:
        # Store the merged weight in a copy of the layer and read it again. The distance between two neighbouring values
        # of a quantized format is often larger than the update.
        trial = _BaseLayerCopy(self.get_base_layer())
        assert self.quantization_backend is not None
        self.quantization_backend.set_base_weight(trial, merged.clone())
        error = (self.quantization_backend.get_base_weight(trial.base_layer).to(merged.dtype) - merged).norm()
        if error <= torch.finfo(merged.dtype).eps * merged.norm():
            return
        ratio = (error / self.get_delta_weight(adapter).norm()).item()
        raise ValueError(
            f"the base weight is quantized ({self.quantization_backend.backend_name}): the merged weight would be "
            f"off by {ratio:.3g} times the update (Frobenius norm) on {self._describe(adapter)}. The base weight is "
            "unchanged. Keep the adapter unmerged. Or dequantize the base model, load the adapter into the dequantized "
            "model and merge there: that merge is exact"
        )

    @property
    def _transposed(self) -> bool:
        return isinstance(self.get_base_layer(), Conv1D)

    def _describe(self, adapter: str) -> str:
        r, r_hat = self.mora_r[adapter], self.mora_operator[adapter].r_hat
        return f"a layer with in={self.in_features}, out={self.out_features}, r={r}, r_hat={r_hat}"


class _BaseLayerCopy:
    """The owner of a copy of a base layer. PEFT's quantization backends write to a base layer through its owner."""

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = copy.deepcopy(base_layer)

    def get_base_layer(self) -> nn.Module:
        return self.base_layer


class MoraLinear(nn.Module, MoraLayer):
    """MoRA on a linear layer: a `torch.nn.Linear`, a quantized linear layer, or a `Conv1D` of transformers.

    Args:
        base_layer: The frozen layer, which maps k inputs to d outputs.
        adapter_name: The name of the first adapter.
        config: The configuration of the first adapter.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: MoraConfig, **kwargs: Any) -> None:
        super().__init__()
        MoraLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config=config, **kwargs)

    def forward(self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Tensor:
        """Compute h = W x + the updates of the active adapters: (..., k) -> (..., d).

        Args:
            x: (..., k).
            args: Further arguments of the base layer.
            adapter_names: The name of the adapter for each row x[i], instead of the active adapters, or `__base__` for
                no adapter.
            kwargs: Further arguments of the base layer.

        Raises:
            ValueError: `adapter_names` does not have one name for each row, or an adapter is merged. Or the base layer,
                a subclass of a linear layer, does not return one tensor of shape (..., d).
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if adapter_names is not None and not self.disable_adapters:
            return self._mixed_forward(x, adapter_names, *args, **kwargs)
        names = [name for name in self.active_adapters if name in self.mora_M]
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        operators = [self.mora_operator[name] for name in names]
        if torch.compiler.is_compiling() or not all(fused.pays(operator, x) for operator in operators):
            # The plain composition. The compiler fuses its steps, also with operations before and after the layer.
            result = self._base_output(x, *args, **kwargs)
            for name, operator in zip(names, operators, strict=True):
                M, inputs = self.mora_M[name], self.mora_dropout[name](x)
                update = operator.apply(self._cast_input_dtype(inputs, M.dtype), M)
                result = result + update.to(result.dtype)
            return result
        further = args or kwargs  # only the base layer knows what they mean
        if not further and self._can_fuse_base(x) and not self._dropout_is_active(names[0]):
            base: Any = self.base_layer
            first, *names = names
            result = fused.linear(x, base.weight, base.bias, self.mora_M[first], self.mora_operator[first])
        else:
            result = self._base_output(x, *args, **kwargs)
            if not self._base_is_plain:
                result = result.clone(memory_format=torch.contiguous_format)
        for name in names:
            inputs, M = self.mora_dropout[name](x), self.mora_M[name]
            result = fused.add_update(result, inputs, M, self.mora_operator[name])
        return result

    def _mixed_forward(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        if len(adapter_names) != len(x):
            raise ValueError(
                f"adapter_names must have one name for each of the {len(x)} rows, got {len(adapter_names)}"
            )
        if self.merged:
            raise ValueError(
                f"adapter_names cannot be used while {self.merged_adapters} are merged; unmerge them first"
            )
        result = self._base_output(x, *args, **kwargs)
        for name in dict.fromkeys(adapter_names):
            if name not in self.mora_M:  # `__base__`, or an adapter that other layers have
                continue
            rows = torch.tensor([i for i, own in enumerate(adapter_names) if own == name], device=x.device)
            M = self.mora_M[name]
            update = self.mora_operator[name].apply(self._cast_input_dtype(x[rows], M.dtype), M)
            result = result.index_add(0, rows, update.to(result.dtype))
        return result

    def _base_output(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The output of the base layer, to which an update can be added.

        Raises:
            ValueError: The layer is a subclass of a linear layer that returns something else, as some routers do.
        """
        result = self.base_layer(x, *args, **kwargs)
        expected = (*x.shape[:-1], self.out_features)
        if not isinstance(result, Tensor) or result.shape != expected:
            got = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise ValueError(
                f"a {type(self.get_base_layer()).__name__} must return one tensor of shape {expected} for an input of "
                f"shape {tuple(x.shape)}, got {got}; name the layer in exclude_modules"
            )
        return result

    def _dropout_is_active(self, name: str) -> bool:
        dropout = self.mora_dropout[name]
        return isinstance(dropout, nn.Dropout) and dropout.training

    def _can_fuse_base(self, x: Tensor) -> bool:
        # If the base layer is frozen and nothing sees its call, `fused.linear` computes its product itself.
        base: Any = self.base_layer
        if type(base) is not nn.Linear or type(base.weight) is not nn.Parameter or not self._base_is_plain:
            return False
        trainable = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        return not trainable and x.dtype == base.weight.dtype and not fused.is_autocast(x)

    @property
    def _base_is_plain(self) -> bool:
        # A linear layer does not keep its output and does not save it for its own backward pass, so the update can be
        # added in place. Other layers, hooks and replaced `forward`s could keep or save the output.
        base: Any = self.base_layer
        if FORWARDS.get(type(base)) is not type(base).forward or "forward" in vars(base):
            return False
        hooks = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks
        return not hooks and self.quantization_backend is None and not _has_any_global_hook()

    def __repr__(self) -> str:
        return "mora." + super().__repr__()

    def extra_repr(self) -> str:
        """The quantization of the base layer, if the base layer is quantized."""
        return quantization_extra_repr(self)
