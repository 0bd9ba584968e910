"""What no single value of a configuration shows: settings and model that do not fit together."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from . import shapes

if TYPE_CHECKING:
    from .run_config import Method, RunConfig


# mora.config's, which cannot be imported before PEFT is; a test compares the two.
AUTO_ROTATION_UP_TO = 32
# What the methods of a family and a method with restarts read: null or absent elsewhere alone.
ADAPTERS = {
    "lora": ("rank", "alpha", "dropout", "target_modules"),
    "mora": ("rank", "operator", "in_groups", "out_groups", "wrap", "surplus", "dropout", "target_modules"),
}
RESTARTS = ("restart_every", "restart_warmup", "restart_schedule", "optimizer_reset", "reset_scope", "reset_ratio")
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def operator_in_force(method: Method) -> Method:
    """`auto` by the name of the operator that it stands for: the same run has the same key either way."""
    if method.operator != "auto" or method.rank is None:
        return method
    return dataclasses.replace(method, operator="rotation" if method.rank <= AUTO_ROTATION_UP_TO else "sharing")


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
    _batches(run)
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


def _complete(run: RunConfig) -> None:
    m = run.method
    restarts = any(getattr(m, name) is not None for name in RESTARTS)
    for name in (*ADAPTERS.get(m.family, ()), *(RESTARTS if restarts else ())):
        if getattr(m, name) is None:
            raise ConfigError(f"method.{name} is missing; method={m.name} cannot do without")


def _there(path: str, what: Callable[[Path], bool]) -> bool:
    """Whether there is such a path; a text that can be no path at all is none either."""
    try:
        return what(Path(path))
    except (OSError, ValueError):
        return False


def _batches(run: RunConfig) -> None:
    """The global batch is the protocol's on any hardware, so it must divide over ranks and device batches."""
    hardware, batch = run.hardware, run.training.batch_size
    if batch % hardware.ranks:
        allowed = [n for n in _divisors(batch) if n % (hardware.nodes or 1) == 0]
        over = f" on {hardware.nodes} nodes" if (hardware.nodes or 1) > 1 else ""
        raise ConfigError(
            f"training.batch_size ({batch}) must be a multiple of the number of processes, got {hardware.ranks}; "
            f"allowed: {_listed(allowed)} processes in all{over}"
        )
    if run.rank_batch % run.device_batch:
        of = f" of training.batch_size {batch} over {hardware.ranks} processes" if hardware.ranks > 1 else ""
        raise ConfigError(
            f"hardware.device_batch_size must divide the {run.rank_batch} examples a process has at each step{of}, "
            f"got {run.device_batch}; allowed: {_listed(_divisors(run.rank_batch))}"
        )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


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
    if run.hardware.sharding == "zero2":
        raise ConfigError(
            f"hardware.sharding must not be zero2 for method={m.name}: DeepSpeed's ZeRO keeps float32 copies of the "
            "adapter that a restart does not reach; allowed: none, full, gradients"
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
