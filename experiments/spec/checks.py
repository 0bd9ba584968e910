"""Checks of several settings together: settings, method and model that do not fit."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import methods, shapes, target_modules
from .run_config import Method, RunConfig

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
HUB_DATA = re.compile(HUB_ID.pattern + r"(:[\w.-]*){0,2}", re.ASCII)  # owner/name, perhaps a configuration and a split
DATA_FILES = (".json", ".jsonl", ".ndjson", ".jsonlines", ".jl", ".csv", ".tsv", ".parquet", ".txt", ".md")
RESTARTS = ("restart_warmup", "restart_schedule", "restart_floor", "optimizer_reset", "reset_scope", "reset_ratio")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# What a method's file may say in `allowed` in place of a list of values.
ALLOWED: dict[str, Callable[[Any], bool]] = {
    "positive number": lambda value: _number(value) and value > 0,
    "positive integer": lambda value: type(value) is int and value > 0,
    "fraction": lambda value: _number(value) and 0 <= value < 1,
}


def together(run: RunConfig) -> None:
    """Check the settings of a run against one another.

    Raises:
        ConfigError: Two settings do not fit; the message names the first such pair.
    """
    _method(run.method)
    m, t = run.method, run.training
    if m.module and methods.module_hash((m.peft or {}).get("peft_type")) is None:
        raise ConfigError(
            f"method={m.name} is defined in {m.module}, and only the command line may name code: say "
            f"method.module={m.module} (for scripts: --method-module {m.module})"
        )
    if t.learning_rate is None and run.method.trains:
        raise ConfigError("training.learning_rate must be a positive number, got None")
    for name in ("train_file", "heldout_file"):
        source = getattr(run.task, name)
        if source and not (_there(source, Path.is_file) or is_hub_data(source)):
            raise ConfigError(f"task.{name} must be a file, or owner/name of a data set on the hub, got {source!r}")
    if t.checkpoint_every % t.log_every:
        raise ConfigError(
            f"training.checkpoint_every must be a multiple of training.log_every ({t.log_every}), "
            f"or the curve of a resumed run would differ; got {t.checkpoint_every}"
        )
    if run.method.rates is not None and t.warmup_steps >= t.steps:
        raise ConfigError(
            f"training.warmup_steps must be less than training.steps ({t.steps}), or the learning rate is never "
            f"reached; got {t.warmup_steps}"
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
    if run.model_id is not None:
        _copy_of_model(run)
    if run.task.data_dir is not None:
        _copies_of_data(run)
    if shape := shapes.at_hand(run.model, run.paths.cache_folder):
        adapters(run, shape)
    if run.method.restart_every:
        _restarts(run)
    if run.training.warm_start_steps:
        _warm_start(run)
    if run.quantization != "none":
        _quantized(run)


def is_hub_data(source: str) -> bool:
    """Whether a source of data is a data set of the hub: it has the form of one, and not the name of a file."""
    has_form = HUB_DATA.fullmatch(source) and not source.lower().endswith(DATA_FILES)
    return bool(has_form) and not _there(source, Path.exists)


def _method(method: Method) -> None:
    """The settings that a method's file adds have allowed values, and no setting that the method needs is missing."""
    for name, allowed in method.allowed.items():
        value = method.setting(name)
        if isinstance(allowed, list):
            words = ["true" if a is True else "false" if a is False else str(a) for a in allowed]
            passes, expected = value in allowed and not _only_equal(value, allowed), f"one of {', '.join(words)}"
        elif isinstance(allowed, str) and allowed in ALLOWED:
            passes, expected = ALLOWED[allowed](value), f"a {allowed}"
        else:
            raise ConfigError(
                f"method.allowed.{name} must be a list of values, or one of {', '.join(ALLOWED)}, got {allowed!r}"
            )
        if not passes:
            raise ConfigError(f"method.{name} must be {expected} for method={method.name}, got {value!r}")
    if method.peft is not None:
        if not isinstance(method.peft.get("peft_type"), str):
            raise ConfigError(f"method.peft.peft_type is missing; method={method.name} cannot do without it")
        for name in ("rank", "target_modules"):
            if getattr(method, name) is None:
                raise ConfigError(f"method.{name} is missing; method={method.name} cannot do without it")
        if method.targets not in (method.target_modules, None):
            raise ConfigError(
                f"method.peft.target_modules must be that of method.target_modules, {method.target_modules}, "
                f"got {method.targets!r}; allowed: method.target_modules=..."
            )
    if method.restart_every:
        for name in RESTARTS:
            if getattr(method, name) is None:
                raise ConfigError(f"method.{name} is missing; method={method.name} cannot do without it")


def _warm_start(run: RunConfig) -> None:
    """A warm start trains a whole model in one process, and leaves steps for the adapters."""
    t, m = run.training, run.method
    needs = ""
    if m.peft is None or not m.train_rest:
        needs = (
            f"must be null for method={m.name} and task={run.task.name}: "
            "it needs an adapter, and method.train_rest=true"
        )
    elif t.warm_start_steps is not None and t.warm_start_steps >= t.steps:
        needs = f"must be less than training.steps={t.steps}"
    elif run.hardware.distributed:
        needs = (
            "must be null with several processes or sharded weights, whose gradients are chosen before the first step"
        )
    if needs:
        raise ConfigError(f"training.warm_start_steps {needs}; got {t.warm_start_steps}")


def _only_equal(value: Any, allowed: list[Any]) -> bool:
    """Whether `value` equals an allowed value of another type only: in Python, 1 == True."""
    return all(type(value) is not type(a) for a in allowed)


def _quantized(run: RunConfig) -> None:
    m, why = run.method, ""
    if m.peft is None:
        why = f"for method={m.name}: a quantized base is frozen, and only an adapter beside it could train"
    elif m.train_rest:
        why = "with method.train_rest: what trains beside the adapters would have to be kept in full precision"
    elif run.quantization not in m.quantizable:
        formats = "".join(f"or {name} " for name in m.quantizable)
        why = f"{formats}for method={m.name} (conf/method/{m.name}.yaml)"
    elif run.training.record_spectrum:
        why = "with training.record_spectrum: the spectrum needs a merged update, and a quantized base rounds it"
    if why:
        raise ConfigError(f"quantization must be none {why}; got {run.quantization}")
    if not run.dry_run and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization={run.quantization} needs the package bitsandbytes, which is not installed: "
            "pip install --constraint constraints.txt --editable '.[quantized]'"
        )


def _copy_of_model(run: RunConfig) -> None:
    """`model_id` is an id of the hub, and the folder `model` may be its copy: the sizes of the models are equal."""
    assert run.model_id is not None
    if not HUB_ID.fullmatch(run.model_id):
        raise ConfigError(f"model_id must be an owner/name on the hub, got {run.model_id!r}")
    if not _there(run.model, Path.is_dir):
        raise ConfigError(
            f"model_id says of which model the folder `model` is a copy, and model={run.model} is no folder"
        )
    published, own = shapes.NAMED.get(run.model_id), _config_of(run.model)
    if own.get("num_key_value_heads") is None:  # the file of a model without shared heads may leave the number out
        own["num_key_value_heads"] = own.get("num_attention_heads")
    if published and any(own.get(name) != size for name, size in published.sizes.items()):
        raise ConfigError(f"model_id: {run.model} is no copy of {run.model_id}: its config.json has other sizes")


def _config_of(folder: str) -> dict[str, Any]:
    """What a model's config.json says; nothing where the file cannot be read."""
    try:
        return dict(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _copies_of_data(run: RunConfig) -> None:
    assert run.task.data_dir is not None
    if run.task.data != "hub":
        raise ConfigError(f"task.data_dir holds copies of the hub's data: it needs task.data=hub, got {run.task.data}")
    if not _there(run.task.data_dir, Path.is_dir):
        raise ConfigError(f"task.data_dir must be a folder, got {run.task.data_dir!r}")


def _there(path: str, what: Callable[[Path], bool]) -> bool:
    """Whether a path exists and passes `what`. A text that cannot be a path does not exist."""
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
            f"training.batch_size ({batch}) must be a multiple of hardware.processes x hardware.nodes, "
            f"got {hardware.ranks}; "
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
    assert m.restart_every is not None and m.restart_warmup is not None  # `_method` has checked both
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
    if run.hardware.precision == "fp16":
        raise ConfigError(
            f"hardware.precision must not be fp16 for method={m.name}: the schedule waits for steps that fp16 skips, "
            "so the learning rate would fall only some steps after the merge; allowed: fp32, bf16"
        )
    if run.hardware.sharding == "zero2":
        raise ConfigError(
            f"hardware.sharding must not be zero2 for method={m.name}: DeepSpeed's ZeRO keeps float32 copies of the "
            "adapter that a restart does not reach; allowed: none, full, gradients"
        )


def adapters(run: RunConfig, shape: shapes.Shape) -> None:
    """Check that the targets are linear layers of the model, and that no layer is smaller than its adapter.

    Raises:
        ConfigError: A target is no layer, or the LoRA of `method.rank` has more parameters than a target.
    """
    if not run.method.targets:
        return
    uncalled = shape.uncalled if run.method.peft else ()
    for name in target_modules.of(run, shape.linears, shape.head, uncalled).layers:
        k, d = shape.linears[name]
        rank = run.method.rank or 0
        if (spent := (k + d) * rank) > k * d:
            raise ConfigError(
                f"method.rank is too large for {target_modules.kind(name)} of {run.model}: a LoRA of rank {rank} has "
                f"{spent:,} parameters there, the layer itself (in={k}, out={d}) has {k * d:,}; "
                f"allowed: at most {k * d // (k + d)}, or a list method.target_modules without this layer"
            )
