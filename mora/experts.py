"""MoRA on a parameter: the fused weights of a mixture of experts, which belong to no linear layer.

    W[e] + delta_weight(M[e])          for each expert e

A module of experts holds one parameter for all its experts and multiplies by parts of it. No layer can be replaced, so
the update is added to the parameter before the module is called.

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = (experts,), or nothing for a parameter of one layer.
W: (..., d, k), or (..., k, d) if the module of experts has `is_transposed`. M: (..., q, q).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from . import sharded
from .config import MoraConfig
from .fused import first_derivative_only
from .layer import MoraLayer
from .operators import Operator

TRANSPOSED = {"Llama4TextExperts"}  # modules with weights (experts, in, out) that do not say so by `is_transposed`


class ParamWrapper(nn.Module, MoraLayer):
    """MoRA on one parameter of a module. Two adapted parameters of one module have a wrapper around a wrapper.

    PEFT knows such a wrapper by the name of its class, so the name cannot be another one.

    Args:
        base_layer: The module with the parameter, or a `ParamWrapper` for another parameter of the module.
        adapter_name: The name of the first adapter.
        config: The configuration of the first adapter.
        parameter_name: The name of the parameter in the module.

    Raises:
        TypeError: The parameter has neither two nor three dimensions, or its numbers are not floating-point numbers.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: MoraConfig, parameter_name: str, **kwargs: Any
    ) -> None:
        super().__init__()
        self.parameter_name = parameter_name
        MoraLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config=config, **kwargs)

    @property
    def parameter(self) -> nn.Parameter:
        """The adapted parameter, W."""
        return getattr(self.get_base_layer(), self.parameter_name)

    @property
    def experts(self) -> tuple[int, ...]:
        """The shape of the stack of Ms: (experts,), or empty for a parameter with two dimensions."""
        return tuple(self.parameter.shape[:-2])

    @property
    def _transposed(self) -> bool:
        module = self.get_base_layer()
        stored = getattr(module, "is_transposed", type(module).__name__ in TRANSPOSED)
        return isinstance(module, Conv1D) or (self.parameter.ndim == 3 and stored)

    def _sizes(self) -> tuple[int, int]:
        W = self.parameter
        if W.ndim not in (2, 3) or not W.is_floating_point():
            raise TypeError(
                f"MoRA adapts parameters with two or three dimensions of floating-point numbers; {self.parameter_name} "
                f"has the shape {tuple(W.shape)} and the type {W.dtype}"
            )
        d, k = W.shape[-2:]
        return (d, k) if self._transposed else (k, d)

    def forward(self, x: Tensor, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        """Call the module with the updates of the active adapters added to the parameter.

        Raises:
            ValueError: `adapter_names` is given while an adapter of this parameter is active, is merged into the
                parameter, or belongs to a row: all rows share the parameter.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [name for name in self.active_adapters if name in self.mora_M]
        rows = () if adapter_names is None or self.disable_adapters else adapter_names
        if rows and (self.merged or names or any(name in self.mora_M for name in rows)):
            raise ValueError(f"adapter_names does not work with target_parameters ({self.parameter_name})")
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(x, *args, **kwargs)
        W: Tensor = self.parameter
        for name in names:
            W = _AddUpdates.apply(W, self.mora_M[name], self.mora_operator[name], self._transposed)
        return functional_call(self.base_layer, {self._path: W}, (x, *args), kwargs, tie_weights=False)

    @property
    def _path(self) -> str:
        """The name of the parameter in `base_layer`."""
        path, module = "", self.base_layer
        while isinstance(module, ParamWrapper):
            path, module = path + "base_layer.", module.base_layer
        return path + self.parameter_name

    def get_base_weight(self) -> Tensor:
        """The adapted parameter without its history in autograd."""
        return self.parameter.data

    def set_base_weight(self, weight_data: Tensor) -> None:
        """Replace the values of the adapted parameter."""
        self.parameter.data = weight_data

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The updates of the adapter in the dtype of M, in the shape of the parameter."""
        M = sharded.whole(self.mora_M[adapter].detach())
        delta = torch.zeros(self.parameter.shape, dtype=M.dtype, device=M.device)
        return add_updates_(delta, M, self.mora_operator[adapter], self._transposed)

    @torch.no_grad()
    def _add_delta_(self, weight: Tensor, adapter: str, sign: float = 1.0) -> None:
        if sharded.is_sharded(weight):
            raise ValueError(
                f"an adapter is not merged into a sharded parameter ({self.parameter_name}); merge before the model is "
                "sharded, or keep the adapter unmerged"
            )
        M = sharded.whole(self.mora_M[adapter]).to(weight.device)
        add_updates_(weight, M, self.mora_operator[adapter], self._transposed, sign)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Part of PEFT's interface: the module without the wrappers, with the updates merged or not."""
        layer: nn.Module = self
        while isinstance(layer, ParamWrapper):
            if merge:
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            layer = layer.base_layer
        return layer

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """False: only linear layers are converted to LoRA."""
        return False

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        return self.parameter.device, self.parameter.dtype

    def __repr__(self) -> str:
        return "mora." + super().__repr__()

    def extra_repr(self) -> str:
        """The name of the adapted parameter."""
        return f"parameter_name={self.parameter_name!r}"


def add_updates_(weight: Tensor, M: Tensor, operator: Operator, transposed: bool, sign: float = 1.0) -> Tensor:
    """``weight += sign * delta_weight(M)`` in place, for each expert.

    Args:
        weight: (..., d, k), or (..., k, d) if `transposed`.
        M: (..., q, q).
        operator: The operator for one expert.
        transposed: The layout of the weight.
        sign: 1.0 or -1.0.
    """
    for part, matrix in zip(_each(weight.mT if transposed else weight), _each(M), strict=True):
        operator.add_delta_(part, matrix, sign)
    return weight


def _each(stack: Tensor) -> Iterator[Tensor]:
    """The matrices of a stack, as views: (..., rows, columns)."""
    return iter(stack if stack.ndim == 3 else [stack])


class _AddUpdates(torch.autograd.Function):
    """``weight + delta_weight(M)``, in the dtype of the weight: in bf16, small updates are rounded away.

    Nothing is saved for the backward pass, because the sum is linear in both.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, M: Tensor, operator: Operator, transposed: bool) -> Tensor:
        ctx.operator, ctx.transposed, ctx.dtype, ctx.shape = operator, transposed, M.dtype, M.shape
        return add_updates_(weight.clone(), M, operator, transposed)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_M = None
        if ctx.needs_input_grad[1]:
            parts = _each(grad.mT if ctx.transposed else grad)
            grad_M = torch.stack([ctx.operator.sum_delta(part.to(ctx.dtype)) for part in parts]).view(ctx.shape)
        return grad if ctx.needs_input_grad[0] else None, grad_M, None, None
