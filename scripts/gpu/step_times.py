"""Tokens a second of a whole training step of a LLaMA with 1.3 billion random weights: forward, backward, AdamW."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig

from experiments.errors import reason_of
from experiments.spec import shapes
from experiments.train import scratch
from mora import MoraConfig
from scripts.benchmarks import models, steps, timing

from .device import Device
from .parts import Emit

MODEL, ROWS, LENGTH = "llama-1.3b", 8, 512


def configs() -> dict[str, PeftConfig]:
    """The adapters that are compared, on all seven projections."""
    target: dict[str, Any] = {"target_modules": models.TARGETS}
    return {
        "lora, r = 8": LoraConfig(r=8, **target),
        "mora sharing, r = 8": MoraConfig(r=8, operator="sharing", **target),
        "mora rotation, r = 8": MoraConfig(r=8, operator="rotation", **target),
        "lora, r = 128": LoraConfig(r=128, **target),
        "mora sharing, r = 128": MoraConfig(r=128, operator="sharing", **target),
    }


def measure(device: Device, emit: Emit, results: Path) -> None:
    """A row for each method; then the same with Liger's kernels, where Liger is installed.

    The frozen weights are in bf16 and the adapters in float32. The forward pass runs under autocast.
    """
    name, rows, length = ("tiny", 1, 8) if device.rehearsal else (MODEL, ROWS, LENGTH)
    with torch.device(device.name):
        base = scratch.llama(shapes.NAMED[name], 0, bos=None, eos=1, pad=0)
        ids = torch.randint(3, shapes.NAMED[name].vocabulary, (rows, length))
    base = base.to(torch.bfloat16).requires_grad_(False).train()
    batch = {"input_ids": ids, "labels": ids}
    about = {"model": name, "rows": rows, "length": length}
    for kernels in ("transformers", "liger"):
        if kernels == "liger" and (reason := use_liger(base)):
            emit(about | {"kernels": kernels, **reason})
            return
        for method, config in configs().items():
            row = about | {"kernels": kernels, "method": method}
            try:
                emit(row | times(base, config, batch, device))
            except Exception as error:
                emit(row | {"error": reason_of(error)})


def times(base: Any, config: PeftConfig, batch: dict[str, torch.Tensor], device: Device) -> dict[str, Any]:
    """Time, tokens a second and peak memory of a step. Only one adapted copy is on the device at a time."""
    autocast = functools.partial(torch.autocast, device.name, torch.bfloat16)
    call = steps.step(models.adapted(base, config), batch, autocast)
    seconds, rounds = (0.0, (1, 1)) if device.rehearsal else (8.0, (5, 40))
    samples = timing.alternate({"step": call}, seconds, rounds, device.seconds)
    summary = timing.summary(samples["step"])
    speed = round(batch["input_ids"].numel() / summary["median"], 1)
    return {"time": summary, "tokens_per_second": speed, "peak": device.peak(call)}


def use_liger(base: Any) -> dict[str, str]:
    """Let the model compute with Liger's kernels. Gives a reason if that is not possible, else nothing."""
    if importlib.util.find_spec("liger_kernel") is None:
        return {"skipped": "liger_kernel is not installed"}
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(model=base)
    except Exception as error:
        return {"error": reason_of(error)}
    return {}
