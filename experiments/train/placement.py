"""Where a run computes: its device, its number format, and the Trainer's arguments about both and about ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..spec import ranks
from ..spec.run_config import Hardware, RunConfig


@dataclass(frozen=True)
class Placement:
    """The device and the number format of a run."""

    device: str  # cpu, or cuda: the GPU of this process
    precision: str  # fp32, bf16 or fp16

    @classmethod
    def of(cls, hardware: Hardware) -> Placement:
        """The placement that the `hardware` section asks for; its `auto` has been resolved."""
        return cls("cuda" if hardware.device == "gpu" else "cpu", hardware.precision)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation, in which frozen weights are loaded."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def prepare_device(config: RunConfig) -> Placement:
    """The placement of a run; also sets the number of CPU threads of this process."""
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    return Placement.of(config.hardware)


def training_arguments(config: RunConfig, placement: Placement, layers: list[str]) -> dict[str, Any]:
    """The arguments of the transformers Trainer about batches, number format, ranks, sharding and compilation.

    Args:
        config: The configuration of the run.
        placement: The placement of the run.
        layers: Class names of the model's blocks: FSDP shards each block by itself.
    """
    hardware, cpu = config.hardware, placement.device == "cpu"
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": config.device_batch,
        "gradient_accumulation_steps": config.rank_batch // config.device_batch,
        "average_tokens_across_devices": True,  # the loss is the mean over all tokens of the global batch
        "use_cpu": cpu,
        "bf16": placement.precision == "bf16" and not cpu,
        "fp16": placement.precision == "fp16",
        "activation_checkpointing": hardware.activation_checkpointing,
        # A GPU gets a batch while it still computes, and the CPU does not wait for that.
        "dataloader_pin_memory": not cpu,
        "accelerator_config": {"non_blocking": not cpu},
        "torch_compile": bool(hardware.compile),
        "ddp_find_unused_parameters": False,
        "ddp_timeout": int(ranks.TIMEOUT.total_seconds()),
    }
    if hardware.sharding in ("full", "gradients"):
        # The model recomputes its blocks, not FSDP's own option: that option wraps each block in a module, PEFT then
        # finds no adapter in the state of the model, and what is saved is empty. FSDP2 gathers the weights of a block
        # once for both, since its hooks know a recomputed forward pass.
        arguments["fsdp"] = True
        arguments["fsdp_config"] = {
            "version": 2,
            "reshard_after_forward": hardware.sharding == "full",
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": layers,
            "state_dict_type": "SHARDED_STATE_DICT",
        }
    if hardware.sharding == "zero2":
        arguments["deepspeed"] = {
            "zero_optimization": {"stage": 2, "overlap_comm": True, "contiguous_gradients": True},
            "bf16": {"enabled": "auto"},
            "fp16": {"enabled": "auto"},
            "gradient_clipping": "auto",
            "gradient_accumulation_steps": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "train_batch_size": "auto",
        }
    return arguments


def base_dtype(config: RunConfig, placement: Placement) -> torch.dtype:
    """The number format in which the base weights are loaded.

    Frozen weights have the number format of the computation. Weights that change, because they train or because a
    restart merges an update into them, are always float32: in bf16, at the learning rates used here, most updates are
    smaller than the gap between two neighbouring numbers.
    """
    changes = config.method.trains_base or config.method.restart_every
    return torch.float32 if changes else placement.dtype
