"""Tensors that are spread over the ranks of a run, as FSDP2 keeps them (DTensor).

A rank holds a run of neighbouring rows, or of columns where a weight is stored transposed. Merging needs no more than
that: the small square matrix is gathered, and each rank adds to the rows that it owns. Plain tensors pass unchanged,
and nothing of torch.distributed is imported for them.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """The rows and columns of a weight (out, in) that are here, as a view that can be written."""

    tensor: Tensor
    rows: slice
    columns: slice


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is spread over ranks."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on every rank. All ranks must ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def part(weight: Tensor) -> Part:
    """What this rank owns of a matrix (out, in); all of it where it is not sharded.

    Raises:
        ValueError: The matrix is sharded over more than one axis of ranks.
    """
    if not is_sharded(weight):
        return Part(weight, slice(0, weight.shape[0]), slice(0, weight.shape[1]))
    if weight.device_mesh.ndim != 1:
        raise ValueError(f"weights sharded over several axes of ranks cannot be merged into: {weight.placements}")
    (placement,) = weight.placements
    spans = [slice(0, weight.shape[0]), slice(0, weight.shape[1])]
    local = weight.to_local()
    if placement.is_shard():
        size, dim = weight.shape[placement.dim], placement.dim
        # As torch.chunk cuts: every part but the last ones is as long as the first.
        longest = -(-size // weight.device_mesh.size())
        first = min(size, longest * weight.device_mesh.get_local_rank())
        spans[dim] = slice(first, first + local.shape[dim])
    return Part(local, spans[0], spans[1])


def write_(tensor: Tensor, values: Tensor) -> None:
    """Give a tensor of any number of axes whole new values, each rank its own part of them."""
    if not is_sharded(tensor):
        tensor.copy_(values)
        return
    (placement,) = tensor.placements
    local = tensor.to_local()
    if placement.is_shard():
        longest = -(-tensor.shape[placement.dim] // tensor.device_mesh.size())
        first = min(tensor.shape[placement.dim], longest * tensor.device_mesh.get_local_rank())
        values = values.narrow(placement.dim, first, local.shape[placement.dim])
    local.copy_(values)
