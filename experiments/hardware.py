"""Where a run computes, and in which number format."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .config import RunConfig


@dataclass(frozen=True)
class Placement:
    """What `hardware` is to torch."""

    device: str  # cpu, cuda
    precision: str  # fp32, bf16, fp16

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that frozen weights are loaded in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def place(config: RunConfig) -> Placement:
    """The placement of a run, whose `auto` has been resolved; sets the number of CPU threads."""
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    return Placement("cuda" if config.hardware.device == "gpu" else "cpu", config.hardware.precision)
