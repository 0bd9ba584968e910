"""FSDP2: which blocks are sharded, and how to gather whole weights for measuring and saving."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from peft import PeftModel
from torch import Tensor, nn

from mora.sharded import whole

from ..errors import ConfigError
from ..spec import ranks
from ..spec.run_config import RunConfig

SHARDED_FOLDER = "pytorch_model_fsdp_0"  # in a checkpoint of accelerate under FSDP: the weights, in parts


def block_classes(model: nn.Module) -> list[str]:
    """Class names of the blocks of a transformers model, which may be inside a PEFT model."""
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    return sorted(getattr(network, "_no_split_modules", None) or [])


@contextlib.contextmanager
def cpu_sharding() -> Iterator[None]:
    """Let accelerate use FSDP on CPUs: torch can shard there, but accelerate accepts FSDP on accelerators only."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    state = PartialState()
    distributed_type = state.distributed_type
    if distributed_type is DistributedType.MULTI_CPU:
        # accelerate reads this type once, when it chooses FSDP or DDP: in this block.
        state.distributed_type = DistributedType.MULTI_GPU
    try:
        yield
    finally:
        state.distributed_type = distributed_type


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Gather whole weights on every rank, so that each rank can compute by itself. Does nothing without sharding."""
    from torch.distributed.fsdp import FSDPModule

    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    states = [shard._get_fsdp_state() for shard in shards]
    meshes = [(group, group.post_forward_mesh_info) for state in states for group in state._fsdp_param_groups]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for group, mesh in meshes:
            group.post_forward_mesh_info = mesh
            # The next backward pass prefetches layers in the order of the last forward passes. Two ranks that have
            # measured different numbers of batches would prefetch different layers and wait for each other forever.
            group._post_forward_indices.clear()
        for state in states:
            state._comm_ctx.post_forward_order.clear()
        for shard in shards:
            shard.reshard()


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a saved model holds, gathered one tensor at a time: the adapter, or the whole model without one.

    Every rank must call this function. Rank 0 gets the weights, on the CPU; the other ranks get an empty dict.
    """
    adapter = model.base_model.prefix if isinstance(model, PeftModel) else ""
    weights = {}
    for name, parameter in model.state_dict().items():
        if adapter in name:
            tensor = whole(parameter)
            if ranks.first():
                weights[name] = tensor.cpu()
    return weights


def check(checkpoints: Sequence[Path], config: RunConfig) -> None:
    """Check that the run can read its newest checkpoint, the last of `checkpoints`.

    Raises:
        ConfigError: The checkpoint was written under another sharding than the run has.
    """
    if not checkpoints:
        return
    newest, sharding = checkpoints[-1], config.hardware.sharding or "none"
    written_under = ["none"]
    if (newest / SHARDED_FOLDER).is_dir():
        written_under = ["full", "gradients"]
    elif any(newest.glob("global_step*")):
        written_under = ["zero2"]
    if sharding not in written_under:
        raise ConfigError(
            f"hardware.sharding is {config.hardware.sharding}, but this cell was interrupted under another sharding "
            f"and continues from its checkpoint; allowed: {' or '.join(written_under)} (or remove {newest.parent})"
        )
