"""The training path of MoraLinear: the update and its addition to the base output in one autograd function.

    W x + decompress(M compress(x))

The plain composition of `operators` makes a tensor as large as the output for the update and another one for the sum,
and autograd keeps what each step needs. Here the update is added in the memory of the base output, grouped operators
keep only the compressed input for the backward pass (r_hat numbers a token, where LoRA keeps all k), and block
operators turn M instead of the activations: P^b = M R^b (Eq. 11), then one batched product.

`linear` computes the frozen base too, so that in the backward pass as well the update is added in the memory of what
the base has computed. `add_update` is for every base that must be called as it is.

Legend: k = in_features, d = out_features, q = r_hat, n = number of blocks, T = number of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .blocked import Blocked
from .grouped import Grouped, Grouping
from .operators import Operator


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, M: Tensor, operator: Operator) -> Tensor:
    """``F.linear(x, weight, bias) + operator.apply(x, M)``. Weight and bias get no gradient. Not for autocast.

    Args:
        x: (..., k), in the dtype of `weight`.
        weight: (d, k).
        bias: (d,) or None.
        M: (q, q), in whose dtype the update is computed.
        operator: What `operators.build` returned.

    Raises:
        RuntimeError: When the gradient itself is differentiated. Use the plain composition for that.
    """
    return _Linear.apply(x, weight, bias, M, operator)


def add_update(result: Tensor, x: Tensor, M: Tensor, operator: Operator) -> Tensor:
    """``result + operator.apply(x, M)``, computed in the memory of `result`.

    The update is computed in the dtype of M (under autocast, in autocast's) and rounded to the dtype of `result` once.

    Args:
        result: (..., d), contiguous. It is overwritten: nothing else may need its values, autograd included.
        x: (..., k), in any floating dtype.
        M: (q, q).
        operator: What `operators.build` returned.

    Raises:
        RuntimeError: When the gradient itself is differentiated. Use the plain composition for that.
    """
    return _Add.apply(result, x, M, operator)


def pays(operator: Operator, x: Tensor) -> bool:
    """Whether this is faster than the plain composition, which turns T rows of x where this turns the q rows of M.

    It is not for a block operator and few tokens, as in decoding.
    """
    return isinstance(operator, Grouped) or x.numel() // x.shape[-1] >= operator.r_hat


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, M: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        # Summing first brings x into the cache for the product.
        kept = _kernel(operator).keep(operator, x, M.dtype)
        out = _same_memory(torch.nn.functional.linear(x, weight, bias))
        _kernel(operator).add_(out, kept, M, operator)
        ctx.save_for_backward(kept if ctx.needs_input_grad[3] else None, M, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, M, weight = ctx.saved_tensors
        operator, kernel = ctx.operator, _kernel(ctx.operator)
        summed = kernel.sum(operator, grad, M.dtype)
        grad_x = grad_M = None
        if ctx.needs_input_grad[3]:
            grad_M = kernel.grad_matrix(summed, kept, operator).to(M.dtype)
        if ctx.needs_input_grad[0]:
            grad_x = kernel.add_grad_x_(grad @ weight, summed, M, operator)
        return grad_x, None, None, grad_M, None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, M: Tensor, operator: Operator) -> Tensor:
        ctx.operator, ctx.x_dtype, ctx.dtype = operator, x.dtype, _compute_dtype(M)
        kept = _kernel(operator).keep(operator, x, ctx.dtype)
        out = _same_memory(result)
        _kernel(operator).add_(out, kept, M.to(ctx.dtype), operator)
        ctx.save_for_backward(kept if ctx.needs_input_grad[2] else None, M)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, M = ctx.saved_tensors
        operator, kernel = ctx.operator, _kernel(ctx.operator)
        summed = kernel.sum(operator, grad, ctx.dtype)
        grad_x = grad_M = None
        if ctx.needs_input_grad[1]:
            grad_x = kernel.grad_x(summed, M.to(ctx.dtype), operator, grad.shape[:-1]).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            grad_M = kernel.grad_matrix(summed, kept, operator).to(M.dtype)
        return grad, grad_x, grad_M, None


def _compute_dtype(M: Tensor) -> torch.dtype:
    kind = M.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else M.dtype


def _same_memory(result: Tensor) -> Tensor:
    # Not ctx.mark_dirty: the output of a linear layer with a bias is a view for autograd, and for views that would
    # cost copies in the backward pass and forbid later in-place changes by the model. The version counter is shared,
    # so a base layer that did save its output still gets autograd's error instead of wrong values.
    return result.detach()


def _sum(grouping: Grouping, x: Tensor, dtype: torch.dtype) -> Tensor:
    # Added up in the wider of the two, without a copy of x in it.
    return grouping.sum(x, torch.promote_types(x.dtype, dtype)).to(dtype)


def _kernel(operator: Operator) -> Any:
    return _GroupedKernel if isinstance(operator, Grouped) else _BlockedKernel


class _GroupedKernel:
    """Kept for the backward pass: the compressed input, (..., q)."""

    @staticmethod
    def keep(operator: Grouped, x: Tensor, dtype: torch.dtype) -> Tensor:
        return _sum(operator.inputs, x, dtype)

    @staticmethod
    def add_(out: Tensor, compressed: Tensor, M: Tensor, operator: Grouped) -> None:
        operator.outputs.add_spread_(out, compressed @ M.mT)

    @staticmethod
    def sum(operator: Grouped, grad: Tensor, dtype: torch.dtype) -> Tensor:
        return _sum(operator.outputs, grad, dtype)

    @staticmethod
    def grad_x(summed: Tensor, M: Tensor, operator: Grouped, leading: torch.Size) -> Tensor:
        return operator.inputs.spread(summed @ M)

    @staticmethod
    def add_grad_x_(grad_x: Tensor, summed: Tensor, M: Tensor, operator: Grouped) -> Tensor:
        return operator.inputs.add_spread_(grad_x, summed @ M)

    @staticmethod
    def grad_matrix(summed: Tensor, compressed: Tensor, operator: Grouped) -> Tensor:
        q = operator.r_hat
        return summed.reshape(-1, q).mT @ compressed.reshape(-1, q)


class _BlockedKernel:
    """Kept for the backward pass: the input, (..., k)."""

    @staticmethod
    def keep(operator: Blocked, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x

    @staticmethod
    def add_(out: Tensor, x: Tensor, M: Tensor, operator: Blocked) -> None:
        P = operator.matrices(M)
        tokens, rows = x.reshape(-1, operator.in_features).to(M.dtype), out.view(-1, operator.out_features)
        # Straight into the output, unless it is in another dtype or repeats what the blocks yield.
        direct = operator.tiles.r_hat == operator.out_features and out.dtype == M.dtype
        y = rows if direct else tokens.new_zeros(len(tokens), operator.tiles.r_hat)
        for run in operator.runs:
            run.outputs(y).baddbmm_(run.inputs(tokens), run.matrices(P).mT)
        if not direct:
            operator.tiles.add_spread_(rows, y)

    @staticmethod
    def sum(operator: Blocked, grad: Tensor, dtype: torch.dtype) -> Tensor:
        return _sum(operator.tiles, grad.reshape(-1, operator.out_features), dtype)

    @staticmethod
    def grad_x(summed: Tensor, M: Tensor, operator: Blocked, leading: torch.Size) -> Tensor:
        zeros = summed.new_zeros(*leading, operator.in_features)
        return _BlockedKernel.add_grad_x_(zeros, summed, M, operator)

    @staticmethod
    def add_grad_x_(grad_x: Tensor, summed: Tensor, M: Tensor, operator: Blocked) -> Tensor:
        if grad_x.dtype != M.dtype:
            return grad_x.add_(_BlockedKernel.grad_x(summed, M, operator, grad_x.shape[:-1]))
        P, tokens = operator.matrices(M), grad_x.view(-1, operator.in_features)
        for run in operator.runs:
            run.inputs(tokens).baddbmm_(run.outputs(summed), run.matrices(P))
        return grad_x

    @staticmethod
    def grad_matrix(summed: Tensor, x: Tensor, operator: Blocked) -> Tensor:
        tokens = x.reshape(-1, operator.in_features).to(summed.dtype)
        grad_P = summed.new_zeros(operator.used, operator.r_hat, operator.r_hat)
        for run in operator.runs:
            into, left, right = run.matrices(grad_P), run.outputs(summed), run.inputs(tokens)
            for i in range(run.length):
                # The copies pay: a row stride of a power of two halves the speed of a transposed product. One block
                # at a time stays in the cache.
                into[i].addmm_(left[i].contiguous().mT, right[i].contiguous())
        return operator.sum_matrices(grad_P)
