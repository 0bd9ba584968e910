"""What no single value of a configuration shows: settings, model and machine that do not fit together."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

from . import shapes
from .errors import ConfigError

if TYPE_CHECKING:
    from .config import Hardware, Method, RunConfig


# mora.config's, which cannot be imported before PEFT is; a test compares the two.
AUTO_ROTATION_UP_TO = 32


def operator_in_force(method: Method) -> Method:
    """`auto` by the name of the operator that it stands for: the same run has the same key either way."""
    if method.operator != "auto" or method.rank is None:
        return method
    return dataclasses.replace(method, operator="rotation" if method.rank <= AUTO_ROTATION_UP_TO else "sharing")


def hardware_in_force(hardware: Hardware, planned: bool = False) -> Hardware:
    """`auto` by what it comes to on this machine: the number format changes a result, so it is part of the key.

    For a run that is only `planned` it is a GPU with bf16, whatever this machine has.

    Raises:
        ConfigError: A GPU is asked for where there is none, or a format that the device cannot compute in.
    """
    gpu = hardware.device != "cpu" and (planned or _has_gpu())
    if hardware.device == "gpu" and not gpu:
        raise ConfigError("hardware.device is gpu, but torch finds no GPU here; allowed: auto, cpu")
    precision = hardware.precision
    if precision == "auto":
        precision = "bf16" if gpu and (planned or _has_bf16()) else "fp32"
    if precision == "fp16" and not gpu:
        raise ConfigError("hardware.precision: fp16 needs a GPU; allowed on the CPU: fp32, bf16")
    return dataclasses.replace(hardware, device="gpu" if gpu else "cpu", precision=precision)


def together(run: RunConfig) -> None:
    """Check what one value alone cannot tell.

    Raises:
        ConfigError: The first thing that does not fit.
    """
    t, shape = run.training, shapes.of(run.model)
    if t.learning_rate is None and run.method.family != "none":
        raise ConfigError("training.learning_rate must be a positive number, got None")
    if run.task.train_file and not Path(run.task.train_file).is_file():
        raise ConfigError(f"task.train_file must be a file, got {run.task.train_file!r}")
    if t.checkpoint_every % t.log_every:
        raise ConfigError(
            f"training.checkpoint_every must be a multiple of training.log_every ({t.log_every}), "
            f"or the curve of a resumed run would differ; got {t.checkpoint_every}"
        )
    micro = run.hardware.device_batch_size
    if micro is not None and t.batch_size % min(micro, t.batch_size):
        raise ConfigError(
            f"training.batch_size must be a multiple of hardware.device_batch_size ({micro}), got {t.batch_size}"
        )
    if run.task.pairs is not None and t.batch_size > run.task.pairs:
        raise ConfigError(f"training.batch_size must be at most task.pairs ({run.task.pairs}), got {t.batch_size}")
    if "/" not in run.model and run.model not in shapes.NAMED and not Path(run.model).exists():
        raise ConfigError(
            f"model must be one of {', '.join(n for n in shapes.NAMED if '/' not in n)}, "
            f"a folder, or an owner/name on the hub, got {run.model!r}"
        )
    if Path(run.model).is_dir() and not (Path(run.model) / "config.json").is_file():
        raise ConfigError(f"model is a folder without a config.json: {run.model}")
    if shape and run.method.target_modules:
        _adapters(run.method, shape, run.model)
    if run.method.restart_every:
        _restarts(run)
    if run.quantization != "none":
        _quantized(run)


def _quantized(run: RunConfig) -> None:
    m, why = run.method, ""
    if m.family not in ("lora", "mora"):
        why = f"for method={m.name}: a quantized base is frozen, and only an adapter beside it could train"
    elif m.train_rest:
        why = "with method.train_rest: what trains beside the adapters would have to be kept in full precision"
    elif (m.name, run.quantization) == ("dora", "int8"):
        why = "or nf4 for method=dora: PEFT's DoRA loses the scales of int8 layers after the first step"
    elif run.training.record_spectrum:
        why = "with training.record_spectrum: the update is merged for it, and a quantized base would round it"
    if why:
        raise ConfigError(f"quantization must be none {why}; got {run.quantization}")
    if not run.dry_run and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization={run.quantization} needs the package bitsandbytes, which is not installed: "
            "pip install --constraint constraints.txt --editable '.[quantized]'"
        )


def _restarts(run: RunConfig) -> None:
    m, steps = run.method, run.training.steps
    assert m.restart_every is not None and m.restart_warmup is not None
    if m.restart_every >= steps:
        raise ConfigError(
            f"method.restart_every must be less than training.steps ({steps}), or nothing is ever merged; "
            f"got {m.restart_every}"
        )
    if m.restart_warmup >= m.restart_every:
        raise ConfigError(
            f"method.restart_warmup must be less than method.restart_every ({m.restart_every}), got {m.restart_warmup}"
        )
    last = steps % m.restart_every or m.restart_every
    if last <= m.restart_warmup:
        raise ConfigError(
            f"method.restart_every={m.restart_every} leaves {last} steps after the last merge of "
            f"training.steps={steps}, not more than method.restart_warmup ({m.restart_warmup}); "
            "allowed: a divisor of training.steps"
        )
    if m.family == "mora" and m.operator != "sharing":
        raise ConfigError(
            f"method.operator must be sharing for method={m.name}, got {m.operator}: "
            "only sharing has a second grouping to change to at a restart"
        )
    if run.quantization != "none":
        raise ConfigError(
            f"quantization must be none for method={m.name}, got {run.quantization}: "
            "every merge would round the base weights again"
        )


def _adapters(method: Method, shape: shapes.Shape, model: str) -> None:
    linears = shape.linears()
    for target in method.target_modules or []:
        if target not in linears:
            raise ConfigError(f"method.target_modules: {model} has no layer {target!r}; allowed: {', '.join(linears)}")
        if method.rank is None:
            continue
        k, d = linears[target]
        q = math.isqrt((k + d) * method.rank)
        spent = q * q if method.family == "mora" else (k + d) * method.rank
        if spent > k * d:
            raise ConfigError(
                f"method.rank is too large for {target} of {model}: at r={method.rank} the adapter would hold "
                f"{spent:,} parameters (r_hat={q}), the layer itself (in={k}, out={d}) has {k * d:,}; "
                f"allowed: at most {k * d // (k + d)}"
            )


# Without a driver there is no need to import torch, which takes longer than all else before a run.
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def _has_gpu() -> bool:
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def _has_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported()
