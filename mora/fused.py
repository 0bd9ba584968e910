"""The training path of MoraLinear: one autograd function computes the update and adds it to the base output.

    W x + decompress(M compress(x))          (arXiv 2405.12130, Eq. 2)

The plain composition of `operators` allocates one tensor of the size of the output for the update and another such
tensor for the sum, and autograd saves the inputs of each step. The functions here need less memory:

* They add the update in the memory of the base output.
* For a factored operator they save only the compressed input for the backward pass: r_hat numbers per token. LoRA saves
  all k numbers per token.
* For a block operator they turn M instead of the activations: P^b = M R^b (Eq. 11), followed by one batched product.

`linear` also computes the frozen base layer. It writes the update first and adds the product with the frozen weight to
the update. This saves one pass over the output, and one pass over the gradient of the input. `add_update` is for a base
layer that must be called itself.

Legend: k = in_features, d = out_features, q = r_hat, n = number of input blocks, T = number of tokens, ``...`` = any
leading dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import kernels
from .blocked import Blocked
from .factored import Factored
from .operators import Operator


def first_derivative_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a backward pass of which a derivative is wanted (`create_graph=True`): it would be taken for a constant.

    `once_differentiable` alone refuses it in `Tensor.backward()` only. `torch.autograd.grad` and
    `torch.autograd.functional` do not visit the node that it adds, and return zeros.

    Returns:
        The backward pass. It raises RuntimeError where a derivative of it is wanted.
    """
    once = once_differentiable(backward)

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        # Autograd computes with gradients in a backward pass only where a derivative of this pass is wanted.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "MoRA's backward pass has no derivative, so create_graph=True, torch.autograd.functional.hessian and "
                "the like fail; torch.func computes second derivatives: torch.func.hessian, torch.func.grad of a grad"
            )
        return once(ctx, *grads)

    return checked


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
        RuntimeError: The backward pass is asked for a derivative, or `torch.func` transforms the function.
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
        RuntimeError: The backward pass is asked for a derivative, or `torch.func` transforms the function.
    """
    return _Add.apply(result, x, M, operator)


def pays(operator: Operator, x: Tensor) -> bool:
    """Whether the functions of this module are faster than the plain composition for the input x of shape (..., k).

    Not under the transforms of `torch.func`, in forward-mode differentiation and while `torch.jit.trace` records, which
    need the plain composition. So `torch.func.hessian` computes second derivatives, and `torch.autograd.grad` does not.

    For a block operator the plain composition turns the T rows of x, and this module turns the q rows of M. The plain
    composition is therefore faster if T < q, as in decoding.
    """
    is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if is_traced or torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return False
    return isinstance(operator, Factored) or x.numel() // x.shape[-1] >= operator.r_hat


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, M: Tensor, operator: Operator) -> Tensor:
        ctx.operator, kernel = operator, _kernel(operator)
        # Compressing before the product with the weight is faster: it brings x into the cache.
        state = kernel.save(operator, x, M.dtype)
        if bias is None and _update_first(operator, x, M):
            out = _same_memory(_add_product_(kernel.update(state, M, operator), x, weight.mT))
        else:
            out = _same_memory(torch.nn.functional.linear(x, weight, bias))
            kernel.add_(out, state, M, operator)
        ctx.save_for_backward(state if ctx.needs_input_grad[3] else None, M, weight)
        return out

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        state, M, weight = ctx.saved_tensors
        operator, kernel = ctx.operator, _kernel(ctx.operator)
        grad_y = kernel.sum(operator, grad, M.dtype)
        grad_x = grad_M = None
        if ctx.needs_input_grad[3]:
            grad_M = kernel.grad_matrix(grad_y, state, operator).to(M.dtype)
        if ctx.needs_input_grad[0]:
            if _update_first(operator, grad, M):
                grad_x = _add_product_(kernel.grad_x(grad_y, M, operator, grad.shape[:-1]), grad, weight)
            else:
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
    @first_derivative_only
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


def is_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor. Some devices, such as `meta`, have no autocast."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _compute_dtype(M: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(M.device.type) if is_autocast(M) else M.dtype


def _update_first(operator: Operator, x: Tensor, M: Tensor) -> bool:
    """Whether the update is written before the product with the weight, which is then added to it.

    Not if this would round the update to the dtype of x, and not where a Triton kernel adds the update.
    """
    sides = (operator.inputs, operator.outputs) if isinstance(operator, Factored) else ()
    return x.dtype == M.dtype and not any(kernels.applies(side, x) for side in sides)


def _add_product_(out: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """``out += x @ matrix`` in place. x: (..., k). matrix: (k, d). out: (..., d), contiguous."""
    out.view(-1, matrix.shape[1]).addmm_(x.reshape(-1, matrix.shape[0]), matrix)
    return out


def _same_memory(result: Tensor) -> Tensor:
    # A tensor in the same memory, without a history in autograd. ctx.mark_dirty would be the usual way. But autograd
    # treats the output of a linear layer with a bias as a view, and for a view mark_dirty costs copies in the backward
    # pass and forbids the model to change the result in place. `detach` shares the version counter: if the base layer
    # has saved its output, autograd raises an error instead of computing wrong gradients.
    return result.detach()


def _kernel(operator: Operator) -> Any:
    """The steps of both passes for the family of the operator. Here y is the product of M with the compressed input.

    `save` returns the tensor that the backward pass needs, `update` returns the update, `add_` adds the update to the
    output, and `sum` computes the gradient of y. From the gradient of y, `grad_x` and `add_grad_x_` compute the
    gradient of x, and `grad_matrix` computes the gradient of M.
    """
    return _FactoredKernel if isinstance(operator, Factored) else _BlockedKernel


class _FactoredKernel:
    """A factored operator. Saved for the backward pass: the compressed input, (..., q)."""

    @staticmethod
    def save(operator: Factored, x: Tensor, dtype: torch.dtype) -> Tensor:
        return kernels.sum_groups(operator.inputs, x, dtype)

    @staticmethod
    def update(compressed: Tensor, M: Tensor, operator: Factored) -> Tensor:
        return operator.outputs.spread(compressed @ M.mT)

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
    def update(x: Tensor, M: Tensor, operator: Blocked) -> Tensor:
        values = _BlockedKernel.values(x, M, operator)
        if operator.tiles.r_hat < operator.out_features:
            values = operator.tiles.spread(values)
        return values.view(*x.shape[:-1], operator.out_features)

    @staticmethod
    def add_(out: Tensor, x: Tensor, M: Tensor, operator: Blocked) -> None:
        rows = out.view(-1, operator.out_features)
        # The products go straight to the output, unless the output has another dtype or repeats the blocks' values.
        if operator.tiles.r_hat == operator.out_features and out.dtype == M.dtype:
            _BlockedKernel.multiply(rows, x, M, operator, keep=1)
        else:
            operator.tiles.add_spread_(rows, _BlockedKernel.values(x, M, operator))

    @staticmethod
    def values(x: Tensor, M: Tensor, operator: Blocked) -> Tensor:
        """What `tiles` repeats over the outputs: (T, tiles.r_hat), in the dtype of M."""
        values = x.new_empty(x.shape[:-1].numel(), operator.tiles.r_hat, dtype=M.dtype)
        _BlockedKernel.multiply(values, x, M, operator, keep=0)
        return values

    @staticmethod
    def multiply(values: Tensor, x: Tensor, M: Tensor, operator: Blocked, keep: int) -> None:
        """Multiply values (T, tiles.r_hat) by `keep`, 0 or 1, and add the product of each block."""
        P, tokens = operator.matrices(M), x.reshape(-1, operator.in_features).to(M.dtype)
        for run in operator.runs:
            # Later runs over the same outputs add to what the first run has written.
            beta = keep if run.is_first else 1
            run.outputs(values).baddbmm_(run.inputs(tokens), run.matrices(P).mT, beta=beta)

    @staticmethod
    def sum(operator: Blocked, grad: Tensor, dtype: torch.dtype) -> Tensor:
        return kernels.sum_groups(operator.tiles, grad.reshape(-1, operator.out_features), dtype)

    @staticmethod
    def grad_x(grad_y: Tensor, M: Tensor, operator: Blocked, leading: torch.Size) -> Tensor:
        P, grad_x = operator.matrices(M), grad_y.new_empty(len(grad_y), operator.in_features)
        grad_x[:, operator.used * operator.r_hat :] = 0  # the dead inputs
        for run in operator.runs:
            # A part of a block that wraps around adds to inputs that have a value already.
            run.inputs(grad_x).baddbmm_(run.outputs(grad_y), run.matrices(P), beta=1 if run.offset else 0)
        return grad_x.view(*leading, operator.in_features)

    @staticmethod
    def add_grad_x_(grad_x: Tensor, grad_y: Tensor, M: Tensor, operator: Blocked) -> Tensor:
        return grad_x.add_(_BlockedKernel.grad_x(grad_y, M, operator, grad_x.shape[:-1]))

    @staticmethod
    def grad_matrix(grad_y: Tensor, x: Tensor, operator: Blocked) -> Tensor:
        tokens = x.reshape(-1, operator.in_features).to(grad_y.dtype)
        # Without rotation the matrix of every block is M itself, so all products add to one gradient.
        grad_P = grad_y.new_zeros(operator.used if operator.rotate else 1, operator.r_hat, operator.r_hat)
        grad_blocks = grad_P.expand(operator.used, -1, -1)
        for run in operator.runs:
            matrices, left, right = run.matrices(grad_blocks), run.outputs(grad_y), run.inputs(tokens)
            for i in range(run.length):
                # The contiguous copies make the product faster: a transposed product has half the speed if the row
                # stride is a power of two. The copies of one block at a time stay in the cache.
                matrices[i].addmm_(left[i].contiguous().mT, right[i].contiguous())
        return operator.sum_matrices(grad_P)
