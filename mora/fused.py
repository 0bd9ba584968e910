"""The training path of MoraLinear: one autograd function computes the update and adds it to the base output.

    W x + decompress(M compress(x))          (arXiv 2405.12130, Eq. 2)

The plain composition of `operators` allocates one tensor of the size of the output for the update and another such
tensor for the sum, and autograd saves the inputs of each step. The functions here need less memory:

* They add the update in the memory of the base output.
* For a factored operator they save only the compressed input for the backward pass: r_hat numbers per token. LoRA saves
  all k numbers per token.
* For a block operator they turn M instead of the activations: P^b = M R^b (Eq. 11), followed by one batched product.

`linear` also computes the frozen base layer, so that the backward pass can add the gradient of the update in the memory
of the gradient of the base. `add_update` is for a base layer that must be called itself.

Legend: k = in_features, d = out_features, q = r_hat, n = number of input blocks, T = number of tokens, ``...`` = any
leading dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import kernels
from .blocked import Blocked
from .factored import Factored
from .operators import Operator


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, M: Tensor, operator: Operator) -> Tensor:
    """``F.linear(x, weight, bias) + operator.apply(x, M)``.

    Weight and bias get no gradient. The function ignores autocast: do not call it under autocast.

    Args:
        x: (..., k), in the dtype of `weight`.
        weight: (d, k).
        bias: (d,) or None.
        M: (q, q). The update is computed in the dtype of M.
        operator: The result of `operators.build`.

    Returns:
        (..., d), in the dtype of `weight`.

    Raises:
        RuntimeError: A second derivative is computed. For second derivatives use the plain composition.
    """
    return _Linear.apply(x, weight, bias, M, operator)


def add_update(result: Tensor, x: Tensor, M: Tensor, operator: Operator) -> Tensor:
    """``result + operator.apply(x, M)``, computed in the memory of `result`.

    The update is computed in the dtype of M (under autocast, in the dtype of autocast) and rounded to the dtype of
    `result` once.

    Args:
        result: (..., d), contiguous. The function overwrites it, so nothing may need its old values, also not autograd.
        x: (..., k), in any floating dtype.
        M: (q, q).
        operator: The result of `operators.build`.

    Returns:
        (..., d), in the memory and the dtype of `result`.

    Raises:
        RuntimeError: A second derivative is computed. For second derivatives use the plain composition.
    """
    return _Add.apply(result, x, M, operator)


def pays(operator: Operator, x: Tensor) -> bool:
    """Whether the functions of this module are faster than the plain composition for the input x of shape (..., k).

    For a block operator the plain composition turns the T rows of x, and this module turns the q rows of M. The plain
    composition is therefore faster if T < q, as in decoding.
    """
    return isinstance(operator, Factored) or x.numel() // x.shape[-1] >= operator.r_hat


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, M: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        # Compressing before the product with the weight is faster: it brings x into the cache.
        state = _kernel(operator).save(operator, x, M.dtype)
        out = _same_memory(torch.nn.functional.linear(x, weight, bias))
        _kernel(operator).add_(out, state, M, operator)
        ctx.save_for_backward(state if ctx.needs_input_grad[3] else None, M, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        state, M, weight = ctx.saved_tensors
        operator, kernel = ctx.operator, _kernel(ctx.operator)
        grad_y = kernel.sum(operator, grad, M.dtype)
        grad_x = grad_M = None
        if ctx.needs_input_grad[3]:
            grad_M = kernel.grad_matrix(grad_y, state, operator).to(M.dtype)
        if ctx.needs_input_grad[0]:
            grad_x = kernel.add_grad_x_(grad @ weight, grad_y, M, operator)
        return grad_x, None, None, grad_M, None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, M: Tensor, operator: Operator) -> Tensor:
        ctx.operator, ctx.x_dtype, ctx.dtype = operator, x.dtype, _compute_dtype(M)
        state = _kernel(operator).save(operator, x, ctx.dtype)
        out = _same_memory(result)
        _kernel(operator).add_(out, state, M.to(ctx.dtype), operator)
        ctx.save_for_backward(state if ctx.needs_input_grad[2] else None, M)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        state, M = ctx.saved_tensors
        operator, kernel = ctx.operator, _kernel(ctx.operator)
        grad_y = kernel.sum(operator, grad, ctx.dtype)
        grad_x = grad_M = None
        if ctx.needs_input_grad[1]:
            grad_x = kernel.grad_x(grad_y, M.to(ctx.dtype), operator, grad.shape[:-1]).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            grad_M = kernel.grad_matrix(grad_y, state, operator).to(M.dtype)
        return grad, grad_x, grad_M, None


def _compute_dtype(M: Tensor) -> torch.dtype:
    kind = M.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else M.dtype


def _same_memory(result: Tensor) -> Tensor:
    # A tensor in the same memory, without a history in autograd. ctx.mark_dirty would be the usual way. But autograd
    # treats the output of a linear layer with a bias as a view, and for a view mark_dirty costs copies in the backward
    # pass and forbids the model to change the result in place. `detach` shares the version counter: if the base layer
    # has saved its output, autograd raises an error instead of computing wrong gradients.
    return result.detach()


def _kernel(operator: Operator) -> Any:
    """The steps of both passes for the family of the operator. Here y is the product of M with the compressed input.

    `save` returns the tensor that the backward pass needs, `add_` adds the update to the output, and `sum` computes the
    gradient of y. From the gradient of y, `grad_x` and `add_grad_x_` compute the gradient of x, and `grad_matrix`
    computes the gradient of M.
    """
    return _FactoredKernel if isinstance(operator, Factored) else _BlockedKernel


class _FactoredKernel:
    """A factored operator. Saved for the backward pass: the compressed input, (..., q)."""

    @staticmethod
    def save(operator: Factored, x: Tensor, dtype: torch.dtype) -> Tensor:
        return kernels.sum_groups(operator.inputs, x, dtype)

    @staticmethod
    def add_(out: Tensor, compressed: Tensor, M: Tensor, operator: Factored) -> None:
        kernels.add_spread_(operator.outputs, out, compressed @ M.mT)

    @staticmethod
    def sum(operator: Factored, grad: Tensor, dtype: torch.dtype) -> Tensor:
        return kernels.sum_groups(operator.outputs, grad, dtype)

    @staticmethod
    def grad_x(grad_y: Tensor, M: Tensor, operator: Factored, leading: torch.Size) -> Tensor:
        return operator.inputs.spread(grad_y @ M)

    @staticmethod
    def add_grad_x_(grad_x: Tensor, grad_y: Tensor, M: Tensor, operator: Factored) -> Tensor:
        return kernels.add_spread_(operator.inputs, grad_x, grad_y @ M)

    @staticmethod
    def grad_matrix(grad_y: Tensor, compressed: Tensor, operator: Factored) -> Tensor:
        q = operator.r_hat
        return grad_y.reshape(-1, q).mT @ compressed.reshape(-1, q)


class _BlockedKernel:
    """A block operator. Saved for the backward pass: the input, (..., k)."""

    @staticmethod
    def save(operator: Blocked, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x

    @staticmethod
    def add_(out: Tensor, x: Tensor, M: Tensor, operator: Blocked) -> None:
        P = operator.matrices(M)
        tokens, rows = x.reshape(-1, operator.in_features).to(M.dtype), out.view(-1, operator.out_features)
        # The products go straight to the output, unless the output has another dtype or repeats the blocks' values.
        direct = operator.tiles.r_hat == operator.out_features and out.dtype == M.dtype
        y = rows if direct else tokens.new_zeros(len(tokens), operator.tiles.r_hat)
        for run in operator.runs:
            run.outputs(y).baddbmm_(run.inputs(tokens), run.matrices(P).mT)
        if not direct:
            operator.tiles.add_spread_(rows, y)

    @staticmethod
    def sum(operator: Blocked, grad: Tensor, dtype: torch.dtype) -> Tensor:
        return kernels.sum_groups(operator.tiles, grad.reshape(-1, operator.out_features), dtype)

    @staticmethod
    def grad_x(grad_y: Tensor, M: Tensor, operator: Blocked, leading: torch.Size) -> Tensor:
        zeros = grad_y.new_zeros(*leading, operator.in_features)
        return _BlockedKernel.add_grad_x_(zeros, grad_y, M, operator)

    @staticmethod
    def add_grad_x_(grad_x: Tensor, grad_y: Tensor, M: Tensor, operator: Blocked) -> Tensor:
        if grad_x.dtype != M.dtype:
            return grad_x.add_(_BlockedKernel.grad_x(grad_y, M, operator, grad_x.shape[:-1]))
        P, tokens = operator.matrices(M), grad_x.view(-1, operator.in_features)
        for run in operator.runs:
            run.inputs(tokens).baddbmm_(run.outputs(grad_y), run.matrices(P))
        return grad_x

    @staticmethod
    def grad_matrix(grad_y: Tensor, x: Tensor, operator: Blocked) -> Tensor:
        tokens = x.reshape(-1, operator.in_features).to(grad_y.dtype)
        grad_P = grad_y.new_zeros(operator.used, operator.r_hat, operator.r_hat)
        for run in operator.runs:
            matrices, left, right = run.matrices(grad_P), run.outputs(grad_y), run.inputs(tokens)
            for i in range(run.length):
                # The contiguous copies make the product faster: a transposed product has half the speed if the row
                # stride is a power of two. The copies of one block at a time stay in the cache.
                matrices[i].addmm_(left[i].contiguous().mT, right[i].contiguous())
        return operator.sum_matrices(grad_P)
