"""Where a run computes, and in which number format."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .config import RunConfig
from .errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """What `hardware` comes to on this machine."""

    device: str  # cpu, cuda
    precision: str  # fp32, bf16, fp16

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the base model is loaded in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def place(config: RunConfig) -> Placement:
    """Resolve `auto`, and set the number of CPU threads.

    Raises:
        ConfigError: The device cannot compute in the asked precision.
    """
    h = config.hardware
    if h.threads:
        torch.set_num_threads(h.threads)
    device = "cuda" if h.device == "gpu" or (h.device == "auto" and torch.cuda.is_available()) else "cpu"
    precision = h.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and device == "cpu":
        raise ConfigError("hardware.precision: fp16 needs a GPU; allowed on the CPU: fp32, bf16")
    return Placement(device, precision)
