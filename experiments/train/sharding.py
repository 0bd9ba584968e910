"""FSDP2 in the harness: what is sharded, and the whole weights of a model that is saved."""

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

SHARDED_FOLDER = "pytorch_model_fsdp_0"  # accelerate's, in a checkpoint that ranks wrote in parts


def blocks(model: nn.Module) -> list[str]:
    """Class names of the blocks of a transformers model, its own or those inside a PEFT model."""
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    return sorted(getattr(network, "_no_split_modules", None) or [])


@contextlib.contextmanager
def on_cpus_too() -> Iterator[None]:
    """Let accelerate shard over CPUs: torch does, but accelerate takes up FSDP on accelerators alone."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    state = PartialState()
    kind = state.distributed_type
    if kind is DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU  # read once, while the engine is chosen
    try:
        yield
    finally:
        state.distributed_type = kind


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """What a saved model holds, gathered one tensor at a time: the adapter, or all weights of a model without one.

    Every rank takes part; rank 0 gets the weights, on the CPU, and the others nothing.
    """
    adapter = model.base_model.prefix if isinstance(model, PeftModel) else ""
    kept = {}
    for name, parameter in model.state_dict().items():
        if adapter in name:
            tensor = whole(parameter)
            if ranks.first():
                kept[name] = tensor.cpu()
    return kept


def check(checkpoints: Sequence[Path], config: RunConfig) -> None:
    """Whether the newest checkpoint is one that this run can read.

    Raises:
        ConfigError: It was written in parts and the run is not sharded, or the other way round.
    """
    if not checkpoints:
        return
    names = {"none": "none", "full": "full or gradients", "gradients": "full or gradients", "zero2": "zero2"}
    asked = names[config.hardware.sharding or "none"]
    last = checkpoints[-1]
    found = "none"
    if (last / SHARDED_FOLDER).is_dir():
        found = "full or gradients"
    elif any(last.glob("global_step*")):
        found = "zero2"
    if found != asked:
        raise ConfigError(
            f"hardware.sharding is {config.hardware.sharding}, but this cell was interrupted under another one and "
            f"goes on from its checkpoint; allowed: {found} (or remove {last.parent})"
        )
