"""Tensors that are spread over the ranks of a run, as FSDP2 keeps them (DTensor).

A rank holds a run of neighbouring rows, or of columns where a weight is stored transposed. Merging needs no more than
that: the small square matrix is gathered, and each rank adds to the rows that it owns. Plain tensors pass unchanged,
and nothing of torch.distributed is imported for them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """The rows and columns of a weight (out, in) that are here, as a view that can be written."""

    tensor: Tensor
    rows: slice
    columns: slice


def is_sharded(tensor: Any) -> bool:
    """Whether the tensor is spread over ranks."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """The whole of a tensor, on every rank. All ranks must ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def part(weight: Tensor) -> Part:
    """What this rank owns of a matrix (out, in); all of it where it is not sharded.

    Raises:
        ValueError: The matrix is sharded over more than one axis of ranks.
    """
    spans = [slice(0, weight.shape[0]), slice(0, weight.shape[1])]
    if not is_sharded(weight):
        return Part(weight, *spans)
    local, axis, span = _owned(weight)
    spans[axis] = span
    return Part(local, *spans)


def write_(tensor: Tensor, values: Tensor) -> None:
    """``tensor.copy_(values)``, where of a sharded tensor each rank writes its own part of the whole values."""
    if not is_sharded(tensor):
        tensor.copy_(values)
        return
    local, axis, span = _owned(tensor)
    local.copy_(values.narrow(axis, span.start, span.stop - span.start))


def _owned(tensor: Any) -> tuple[Tensor, int, slice]:
    """The memory of this rank's part, the axis that is cut, and which of its entries the part has."""
    if tensor.device_mesh.ndim != 1:
        raise ValueError(
            f"only tensors that are sharded over one axis of ranks can be written, not {tensor.placements}"
        )
    (placement,) = tensor.placements
    local = tensor.to_local()
    axis = placement.dim if placement.is_shard() else 0
    if not placement.is_shard():
        return local, axis, slice(0, tensor.shape[0])
    # As torch.chunk cuts: every part is as long as the first, but for the last ones.
    longest = -(-tensor.shape[axis] // tensor.device_mesh.size())
    first = min(tensor.shape[axis], longest * tensor.device_mesh.get_local_rank())
    return local, axis, slice(first, first + local.shape[axis])
