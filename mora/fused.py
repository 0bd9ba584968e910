"""The training path of MoraLinear: the update and its addition to the base output in one autograd function.

    result + decompress(M compress(x))

The plain composition of `operators` makes a tensor as large as the output for the update and another one for the sum,
and autograd keeps what each step needs. Here the update is added in the memory of the base output, grouped operators
keep only the compressed input for the backward pass (r_hat numbers a token, where LoRA keeps all k), and block
operators turn M instead of the activations: P^b = M R^b (Eq. 11), then one batched product.

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
    function = _AddGrouped if isinstance(operator, Grouped) else _AddBlocked
    return function.apply(result, x, M, operator)


def _compute_dtype(M: Tensor) -> torch.dtype:
    kind = M.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else M.dtype


def _sum(grouping: Grouping, x: Tensor, dtype: torch.dtype) -> Tensor:
    # Added up in the wider of the two, without a copy of x in it.
    return grouping.sum(x, torch.promote_types(x.dtype, dtype)).to(dtype)


def _same_memory(result: Tensor) -> Tensor:
    # Not ctx.mark_dirty: the output of a linear layer with a bias is a view for autograd, and for views that would
    # cost copies in the backward pass and forbid later in-place changes by the model. The version counter is shared,
    # so a base layer that did save its output still gets autograd's error instead of wrong values.
    return result.detach()


class _AddGrouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, M: Tensor, operator: Grouped) -> Tensor:
        ctx.operator, ctx.x_dtype, ctx.dtype = operator, x.dtype, _compute_dtype(M)
        compressed = _sum(operator.inputs, x, ctx.dtype)
        out = _same_memory(result)
        operator.outputs.add_spread_(out, compressed @ M.to(ctx.dtype).mT)
        ctx.save_for_backward(compressed if ctx.needs_input_grad[2] else None, M)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        compressed, M = ctx.saved_tensors
        summed = _sum(ctx.operator.outputs, grad, ctx.dtype)
        grad_x = grad_M = None
        if ctx.needs_input_grad[1]:
            grad_x = ctx.operator.inputs.spread((summed @ M.to(ctx.dtype)).to(ctx.x_dtype))
        if ctx.needs_input_grad[2]:
            side = len(M)
            grad_M = (summed.reshape(-1, side).mT @ compressed.reshape(-1, side)).to(M.dtype)
        return grad, grad_x, grad_M, None


class _AddBlocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, M: Tensor, operator: Blocked) -> Tensor:
        ctx.operator, ctx.dtype = operator, _compute_dtype(M)
        P = operator.matrices(M).to(ctx.dtype)
        out = _same_memory(result)
        tokens, rows = x.reshape(-1, operator.in_features).to(ctx.dtype), out.view(-1, operator.out_features)
        # Straight into the output, unless it is in another dtype or repeats what the blocks yield.
        direct = operator.tiles.r_hat == operator.out_features and out.dtype == ctx.dtype
        y = rows if direct else tokens.new_zeros(len(tokens), operator.tiles.r_hat)
        for run in operator.runs:
            run.outputs(y).baddbmm_(run.inputs(tokens), run.matrices(P).mT)
        if not direct:
            operator.tiles.add_spread_(rows, y)
        ctx.save_for_backward(x if ctx.needs_input_grad[2] else None, M)
        ctx.x_like = x.dtype, x.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operator: Blocked = ctx.operator
        x, M = ctx.saved_tensors
        x_dtype, x_shape = ctx.x_like
        summed = _sum(operator.tiles, grad.reshape(-1, operator.out_features), ctx.dtype)
        grad_x = grad_M = None
        if ctx.needs_input_grad[1]:
            P = operator.matrices(M).to(ctx.dtype)
            grad_tokens = summed.new_zeros(len(summed), operator.in_features)
            for run in operator.runs:
                run.inputs(grad_tokens).baddbmm_(run.outputs(summed), run.matrices(P))
            grad_x = grad_tokens.to(x_dtype).view(x_shape)
        if ctx.needs_input_grad[2]:
            tokens = x.reshape(-1, operator.in_features).to(ctx.dtype)
            grad_P = summed.new_zeros(operator.used, operator.r_hat, operator.r_hat)
            for run in operator.runs:
                # The copies pay: a row stride of a power of two halves the speed of a transposed product.
                left, right = run.outputs(summed).contiguous(), run.inputs(tokens).contiguous()
                run.matrices(grad_P).baddbmm_(left.mT, right)
            grad_M = operator.sum_matrices(grad_P).to(M.dtype)
        return grad, grad_x, grad_M, None
