"""What no single value of a configuration shows: settings, model and machine that do not fit together."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import shapes
from .errors import ConfigError

if TYPE_CHECKING:
    from .config import Hardware, Method, RunConfig, Task


# mora.config's, which cannot be imported before PEFT is; a test compares the two.
AUTO_ROTATION_UP_TO = 32
# What the methods of a family, a method with restarts, and a task read: null or absent elsewhere alone.
ADAPTERS = {
    "lora": ("rank", "alpha", "dropout", "target_modules"),
    "mora": ("rank", "operator", "in_groups", "out_groups", "wrap", "surplus", "dropout", "target_modules"),
}
RESTARTS = ("restart_every", "restart_warmup", "restart_schedule", "optimizer_reset", "reset_scope", "reset_ratio")
TASKS = {
    "uuid": ("pairs", "eval_pairs"),
    "instruct": ("prompt", "max_length", "heldout_rows"),
    "math": ("prompt", "max_length", "heldout_rows", "new_tokens"),
    "biomed": ("max_length", "heldout_rows"),
    "finance": ("max_length", "heldout_rows"),
    "pretrain": ("max_length",),
}
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def operator_in_force(method: Method) -> Method:
    """`auto` by the name of the operator that it stands for: the same run has the same key either way."""
    if method.operator != "auto" or method.rank is None:
        return method
    return dataclasses.replace(method, operator="rotation" if method.rank <= AUTO_ROTATION_UP_TO else "sharing")


def hardware_in_force(hardware: Hardware) -> Hardware:
    """`auto` by what it comes to on this machine: the number format changes a result, so it is part of the key.

    Raises:
        ConfigError: A GPU is asked for where there is none, or a format that the device cannot compute in.
    """
    gpu = hardware.device != "cpu" and _has_gpu()
    if hardware.device == "gpu" and not gpu:
        raise ConfigError("hardware.device is gpu, but torch finds no GPU here; allowed: auto, cpu")
    precision = hardware.precision
    if precision == "auto":
        precision = "bf16" if gpu and _has_bf16() else "fp32"
    if precision == "fp16" and not gpu:
        raise ConfigError("hardware.precision: fp16 needs a GPU; allowed on the CPU: fp32, bf16")
    return dataclasses.replace(hardware, device="gpu" if gpu else "cpu", precision=precision)


def together(run: RunConfig) -> None:
    """Check what one value alone cannot tell.

    Raises:
        ConfigError: The first thing that does not fit.
    """
    _complete(run)
    t, shape = run.training, shapes.of(run.model)
    if t.learning_rate is None and run.method.family != "none":
        raise ConfigError("training.learning_rate must be a positive number, got None")
    if run.task.train_file and not _there(run.task.train_file, Path.is_file):
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
    if not (run.model in shapes.NAMED or HUB_ID.fullmatch(run.model) or _there(run.model, Path.exists)):
        raise ConfigError(
            f"model must be one of {', '.join(n for n in shapes.NAMED if '/' not in n)}, "
            f"a folder, or an owner/name on the hub, got {run.model!r}"
        )
    if _there(run.model, Path.is_dir) and not (Path(run.model) / "config.json").is_file():
        raise ConfigError(f"model is a folder without a config.json: {run.model}")
    if shape and run.method.target_modules:
        _adapters(run.method, shape, run.model)
    if run.method.restart_every:
        _restarts(run)


def _complete(run: RunConfig) -> None:
    m, t = run.method, run.task
    restarts = m.name in ("relora", "remora") or m.restart_every is not None
    needed: list[tuple[str, Method | Task, str]] = [
        ("method", m, name) for name in (*ADAPTERS.get(m.family, ()), *(RESTARTS if restarts else ()))
    ]
    needed += [("task", t, name) for name in TASKS.get(t.name, ())]
    for section, values, name in needed:
        if getattr(values, name) is None:
            raise ConfigError(f"{section}.{name} is missing; {section}={values.name} cannot do without")


def _there(path: str, what: Callable[[Path], bool]) -> bool:
    """Whether there is such a path; a text that can be no path at all is none either."""
    try:
        return what(Path(path))
    except (OSError, ValueError):
        return False


def _restarts(run: RunConfig) -> None:
    m, steps = run.method, run.training.steps
    assert m.restart_every is not None and m.restart_warmup is not None  # `_complete` has seen to it
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
