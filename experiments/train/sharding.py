"""FSDP2 in the harness: what is sharded, and the whole weights of a model that is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
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


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a saved model holds, gathered one tensor at a time: the adapter, or the whole model without one.

    PEFT chooses what belongs to the adapter: besides its parameters also `modules_to_save`, trained biases, and buffers
    such as VeRA's projections. The base weight of an adapted embedding or head stays out: the base model has it.

    Every rank must call this function. Rank 0 gets the weights, on the CPU, under the names of the model's state; the
    other ranks get an empty dict.

    Raises:
        RuntimeError: The state of the model has no tensor of the adapter.
    """
    state = chosen = model.state_dict()
    if isinstance(model, PeftModel):
        # Without a search for embeddings, for which every rank would ask the hub for the base model's settings.
        chosen = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    if not chosen:
        raise RuntimeError("nothing of the adapter is in the state of the model, so nothing would be saved")
    kept, weights = {id(tensor) for tensor in chosen.values()}, {}
    for name, tensor in state.items():
        if id(tensor) in kept:
            tensor = whole(tensor)
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
