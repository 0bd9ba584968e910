"""Where a run computes, in which number format, and over how many processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..spec import ranks
from ..spec.run_config import RunConfig


@dataclass(frozen=True)
class Placement:
    """What `hardware` is to torch."""

    device: str  # cpu, cuda: the one of this process
    precision: str  # fp32, bf16, fp16

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that frozen weights are loaded in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def place(config: RunConfig) -> Placement:
    """The placement of a run, whose `auto` has been resolved; joins the ranks and sets the number of CPU threads."""
    if config.hardware.distributed:
        ranks.join(config.hardware.device)
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    return Placement("cuda" if config.hardware.device == "gpu" else "cpu", config.hardware.precision)


def training_arguments(config: RunConfig, placement: Placement, layers: list[str]) -> dict[str, Any]:
    """The arguments of the transformers Trainer that say where and how it computes.

    Args:
        config: The run.
        placement: Its placement.
        layers: Class names of the model's blocks, which are sharded one by one.
    """
    hardware, cpu = config.hardware, placement.device == "cpu"
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": config.device_batch,
        "gradient_accumulation_steps": config.rank_batch // config.device_batch,
        "average_tokens_across_devices": True,  # the loss is a mean over the tokens of the whole global batch
        "use_cpu": cpu,
        "bf16": placement.precision == "bf16" and not cpu,
        "fp16": placement.precision == "fp16",
        "activation_checkpointing": hardware.activation_checkpointing,
        "dataloader_pin_memory": not cpu,
        "torch_compile": bool(hardware.compile),
        "ddp_find_unused_parameters": False,
        "ddp_timeout": int(ranks.PATIENCE.total_seconds()),
    }
    if hardware.sharding in ("full", "gradients"):
        # Blocks are recomputed by FSDP itself: recomputed from outside, their weights would be gathered twice.
        arguments |= {"fsdp": True, "activation_checkpointing": False}
        arguments["fsdp_config"] = {
            "version": 2,
            "reshard_after_forward": hardware.sharding == "full",
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": layers,
            "activation_checkpointing": hardware.activation_checkpointing,
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
    """The number format that the base weights are loaded in.

    Frozen weights take that of the computation. Weights that train stay in float32 whatever it is: in bf16 most
    updates at these rates are smaller than the gap between two neighbouring numbers.
    """
    return torch.float32 if config.method.trains_base else placement.dtype
