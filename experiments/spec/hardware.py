"""The `hardware` section on this machine: every `auto` and every null replaced by a definite value."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from . import ranks

if TYPE_CHECKING:
    from .run_config import Hardware

# Without one of these files torch is not asked for a GPU: its import takes longer than all else before a run.
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def hardware_in_force(hardware: Hardware, planned: bool = False) -> Hardware:
    """The same section with a definite value in place of every `auto` and null.

    Args:
        hardware: The section as it was composed.
        planned: The run is planned for another machine: `auto` is then a GPU with bf16, whatever this machine has.

    Raises:
        ConfigError: Two settings fit one another on no machine, or this machine lacks what a setting needs.
    """
    _check_together(hardware)
    gpu = hardware.device != "cpu" and (planned or _has_gpu())
    if hardware.device == "gpu" and not gpu:
        raise ConfigError("hardware.device is gpu, but torch finds no GPU here; allowed: auto, cpu")
    precision = hardware.precision
    if precision == "auto":
        precision = "bf16" if gpu and (planned or _has_bf16()) else "fp32"
    hardware = hardware.replace(device="gpu" if gpu else "cpu", precision=precision)
    _check_together(hardware)  # `auto` may have become the CPU
    if planned:
        return hardware.replace(processes=hardware.processes or 1, nodes=hardware.nodes or 1)
    return _engine_in_force(_ranks_in_force(hardware))


def _check_together(hardware: Hardware) -> None:
    """Check the settings against one another, without a look at this machine.

    Raises:
        ConfigError: Two settings do not fit.
    """
    if hardware.precision == "fp16" and hardware.device == "cpu":
        raise ConfigError("hardware.precision: fp16 needs a GPU; allowed on the CPU: fp32, bf16")
    if hardware.sharding == "zero2" and hardware.device == "cpu":
        raise ConfigError(
            "hardware.sharding: zero2 needs DeepSpeed, which runs on GPUs; allowed on the CPU: none, full, gradients"
        )
    if hardware.sharding in ("full", "gradients") and hardware.compile:
        raise ConfigError(
            "hardware.compile must be false under FSDP: the ranks of a compiled model do not gather the same weights "
            "at the same time; allowed with hardware.compile=true: hardware.sharding=none"
        )


def _ranks_in_force(hardware: Hardware) -> Hardware:
    """`processes` and `nodes` as numbers: from torchrun or srun, else one process for each GPU of this machine."""
    gpus = _gpus() if hardware.device == "gpu" and hardware.processes != 1 else None
    if rank := ranks.from_launcher():
        launched: dict[str, Any] = {"processes": rank.local_count, "nodes": rank.count // rank.local_count}
        for name, value in launched.items():
            if getattr(hardware, name) not in (None, value):
                raise ConfigError(
                    f"hardware.{name} is {getattr(hardware, name)}, but this run was started as {rank.count} ranks, "
                    f"{rank.local_count} on each node; allowed: {value}, or null as in hardware=ddp"
                )
        hardware = hardware.replace(**launched)
    elif (hardware.nodes or 1) > 1:
        raise ConfigError(
            f"hardware.nodes is {hardware.nodes}, but run.py starts ranks on its own machine alone; "
            "allowed: 1, or start run.py on every node with torchrun or srun (docs/scaling.md)"
        )
    processes = hardware.processes or gpus or 1
    if gpus is not None and processes > gpus:
        started = "; srun must show each rank all GPUs of its node: --gpus-per-node in place of --gpus-per-task"
        raise ConfigError(
            f"hardware.processes is {processes}, but this machine has fewer GPUs; allowed: 1 to {gpus}"
            + (started if ranks.from_launcher() else "")
        )
    return hardware.replace(processes=processes, nodes=hardware.nodes or 1)


def _engine_in_force(hardware: Hardware) -> Hardware:
    """`sharding` and `compile` as definite values."""
    sharding = hardware.sharding or "none"
    if sharding == "zero2" and not _has_deepspeed():
        raise ConfigError(
            "hardware.sharding: zero2 needs the package deepspeed, which is not installed (pip install deepspeed); "
            "allowed without it: none, full, gradients"
        )
    return hardware.replace(sharding=sharding, compile=bool(hardware.compile))


def _has_gpu() -> bool:
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _has_deepspeed() -> bool:
    return importlib.util.find_spec("deepspeed") is not None


def _has_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported()
