"""Sharded tensors: FSDP2 splits a weight over the processes (ranks) of a run and stores it as a DTensor.

Each rank holds consecutive rows of the weight, or consecutive columns if the weight is stored transposed. To merge an
update, every rank gathers the small square matrix M and adds the update to its own rows or columns of the weight. All
functions here also accept a plain tensor. They treat it as a tensor with one owner, and they do not import
torch.distributed for it.

Legend: d = out_features, k = in_features.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from torch import Tensor, nn

# Modules that training puts around the modules of a model: activation checkpointing, FSDP and torch.compile.
WRAPPERS = ("_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod")


class Part(NamedTuple):
    """The part of a weight (d, k) that this rank holds.

    Attributes:
        tensor: A view of that part. Writing to the view changes the weight.
        rows: The rows of the whole weight that the part covers.
        columns: The columns of the whole weight that the part covers.
    """

    tensor: Tensor
    rows: slice
    columns: slice


def unwrapped_name(name: str) -> str:
    """The name of a module or a parameter in the model without the wrappers of training."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def is_sharded(tensor: Any) -> bool:
    """Whether the tensor is sharded over ranks."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """The whole tensor, on every rank. If the tensor is sharded, all ranks must call this function."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def from_first_rank(tensor: Tensor) -> Tensor:
    """``tensor``, with the values of rank 0 on all ranks. If there are several ranks, all must call this function."""
    distributed: Any = sys.modules.get("torch.distributed")
    is_running = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if is_running and distributed.get_world_size() > 1:
        distributed.broadcast(tensor, src=0)
    return tensor


def reshard(model: nn.Module) -> None:
    """Make the parameters of `model` sharded again, where FSDP2 has left whole copies of them.

    With `reshard_after_forward=False` FSDP2 gathers the parameters for a forward pass and keeps the copies until the
    backward pass. What is written to a copy is lost.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if hasattr(fsdp, "FSDPModule"):  # else nothing is sharded
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()


def part(weight: Tensor) -> Part:
    """The part of a matrix (d, k) that this rank holds: the whole matrix if it is not sharded.

    Raises:
        ValueError: The matrix is sharded over a device mesh with more than one dimension.
    """
    spans = [slice(0, weight.shape[0]), slice(0, weight.shape[1])]
    if not is_sharded(weight):
        return Part(weight, *spans)
    local, axis, span = _local_part(weight)
    spans[axis] = span
    return Part(local, *spans)


def write_(tensor: Tensor, values: Tensor) -> None:
    """``tensor.copy_(values)``. If `tensor` is sharded, each rank writes its own part.

    Args:
        tensor: The tensor that is overwritten.
        values: The whole values, in the shape of the whole tensor, on every rank.

    Raises:
        ValueError: The tensor is sharded over a device mesh with more than one dimension.
    """
    if not is_sharded(tensor):
        tensor.copy_(values)
        return
    local, axis, span = _local_part(tensor)
    local.copy_(values.narrow(axis, span.start, span.stop - span.start))


def _local_part(tensor: Any) -> tuple[Tensor, int, slice]:
    """This rank's part of a sharded tensor, the axis along which the tensor is split, and the part's span on it."""
    if tensor.device_mesh.ndim != 1:
        raise ValueError(
            f"only a tensor that is sharded over a one-dimensional device mesh can be written, got {tensor.placements}"
        )
    (placement,) = tensor.placements
    local = tensor.to_local()
    axis = placement.dim if placement.is_shard() else 0
    if not placement.is_shard():
        return local, axis, slice(0, tensor.shape[0])
    # The same split as torch.chunk: all parts have the length of the first one, except the last parts, which can be
    # shorter or empty.
    longest = -(-tensor.shape[axis] // tensor.device_mesh.size())
    first = min(tensor.shape[axis], longest * tensor.device_mesh.get_local_rank())
    return local, axis, slice(first, first + local.shape[axis])
