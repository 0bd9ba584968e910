"""The typed run configuration. Every error a user can make is found here, before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from . import shapes
from .errors import ConfigError


@dataclass(frozen=True)
class Check:
    """A test of one value, and how to say what passes it."""

    passes: Callable[[Any], bool]
    allowed: str


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


POSITIVE_INT = Check(lambda v: _is_int(v) and v > 0, "a positive integer")
COUNT = Check(lambda v: _is_int(v) and v >= 0, "an integer of at least 0")
SEED = Check(lambda v: _is_int(v) and 0 <= v < 2**32, "an integer from 0 to 4294967295")
POSITIVE = Check(lambda v: _is_number(v) and v > 0, "a positive number")
NOT_NEGATIVE = Check(lambda v: _is_number(v) and v >= 0, "a number of at least 0")
FRACTION = Check(lambda v: _is_number(v) and 0 <= v < 1, "a number in [0, 1)")
TEXT = Check(lambda v: type(v) is str and v != "", "a text")
SWITCH = Check(lambda v: type(v) is bool, "true or false")
NAMES = Check(
    lambda v: type(v) is list and v != [] and len(set(map(str, v))) == len(v) and all(map(TEXT.passes, v)),
    "a list of different names, such as [q_proj, v_proj]",
)


def one_of(*allowed: str) -> Check:
    return Check(lambda v: v in allowed, "one of " + ", ".join(allowed))


def setting(check: Check, *, optional: bool = False) -> Any:
    """A field of a section. An optional one may be null or left out."""
    metadata = {"check": check, "optional": optional}
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the model is adapted. Settings that a method does not have are None."""

    name: str = setting(TEXT)
    family: str = setting(one_of("fft", "lora", "mora"))
    rank: int | None = setting(POSITIVE_INT, optional=True)
    target_modules: list[str] | None = setting(NAMES, optional=True)
    dropout: float | None = setting(FRACTION, optional=True)
    alpha: float | None = setting(POSITIVE, optional=True)
    operator: str | None = setting(one_of("auto", "truncation", "sharing", "decouple", "rotation"), optional=True)
    in_groups: str | None = setting(one_of("strided", "contiguous"), optional=True)
    out_groups: str | None = setting(one_of("strided", "contiguous"), optional=True)
    wrap: bool | None = setting(SWITCH, optional=True)
    surplus: str | None = setting(one_of("drop", "fold"), optional=True)
    train_rest: bool | None = setting(SWITCH, optional=True)
    lr_ratio: float | None = setting(POSITIVE, optional=True)
    restart_every: int | None = setting(POSITIVE_INT, optional=True)
    restart_warmup: int | None = setting(POSITIVE_INT, optional=True)
    restart_schedule: str | None = setting(one_of("jagged", "official_lifted", "plain"), optional=True)
    restart_floor: float | None = setting(FRACTION, optional=True)
    groupings: str | None = setting(one_of("two", "four"), optional=True)
    optimizer_reset: str | None = setting(one_of("zero", "magnitude", "random"), optional=True)
    reset_scope: str | None = setting(one_of("adapter", "all"), optional=True)
    reset_ratio: float | None = setting(
        Check(lambda v: _is_number(v) and 0 < v <= 1, "a number in (0, 1]"), optional=True
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned and measured. Settings that a task does not have are None."""

    name: str = setting(TEXT)
    pairs: int | None = setting(POSITIVE_INT, optional=True)
    eval_pairs: int | None = setting(POSITIVE_INT, optional=True)


@dataclass(frozen=True, kw_only=True)
class Training:
    learning_rate: float = setting(POSITIVE)
    steps: int = setting(POSITIVE_INT)
    batch_size: int = setting(POSITIVE_INT)
    schedule: str = setting(one_of("linear", "cosine", "constant"))
    warmup_steps: int = setting(COUNT)
    weight_decay: float = setting(NOT_NEGATIVE)
    max_grad_norm: float = setting(POSITIVE)
    adapter_dtype: str = setting(one_of("float32", "base", "official"))
    record_spectrum: bool = setting(SWITCH)
    log_every: int = setting(POSITIVE_INT)
    evaluate_every: int = setting(POSITIVE_INT)
    checkpoint_every: int = setting(POSITIVE_INT)
    keep_checkpoints: int = setting(POSITIVE_INT)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    name: str = setting(TEXT)
    device: str = setting(one_of("auto", "cpu", "gpu"))
    precision: str = setting(one_of("auto", "fp32", "bf16", "fp16"))
    device_batch_size: int | None = setting(POSITIVE_INT, optional=True)
    activation_checkpointing: bool = setting(SWITCH)
    threads: int | None = setting(POSITIVE_INT, optional=True)


@dataclass(frozen=True, kw_only=True)
class Logger:
    name: str = setting(one_of("none", "wandb"))
    project: str | None = setting(TEXT, optional=True)


@dataclass(frozen=True, kw_only=True)
class Paths:
    results: str = setting(TEXT)
    cache: str | None = setting(TEXT, optional=True)

    @property
    def cache_folder(self) -> Path:
        """`paths.cache`, else MORA_CACHE, else the user's cache folder."""
        if self.cache:
            return Path(self.cache).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mora"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that one run depends on."""

    method: Method
    task: Task
    scale: str
    model: str = setting(TEXT)
    quantization: str = setting(one_of("none"))
    seed: int = setting(SEED)
    training: Training
    hardware: Hardware
    logger: Logger
    paths: Paths
    protocol: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def parse(config: DictConfig) -> RunConfig:
    """Check a composed configuration and give it types.

    Raises:
        ConfigError: The first thing that is wrong with it.
    """
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    sections = {"method": Method, "task": Task, "training": Training, "hardware": Hardware}
    sections |= {"logger": Logger, "paths": Paths}
    top = {f.name: f for f in dataclasses.fields(RunConfig) if "check" in f.metadata}
    expected = {*sections, *top, "scale", "protocol"}
    if wrong := sorted(expected ^ set(values)):
        what = "is not a setting" if wrong[0] in values else "is missing"
        raise ConfigError(f"{wrong[0]} {what}; allowed: {', '.join(sorted(expected))}")
    parsed = {name: _section(cls, name, values[name]) for name, cls in sections.items()}
    for name, f in top.items():
        _check_value(f, name, values[name])
    run = RunConfig(
        **parsed, **{name: values[name] for name in top}, scale=values["scale"]["name"], protocol=values["protocol"]
    )
    _check_together(run)
    return run


def _section(cls: Any, where: str, values: Any) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a section of settings, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"{where}.{name} is not a setting; allowed: {', '.join(fields)}")
        _check_value(fields[name], f"{where}.{name}", value)
    missing = [n for n, f in fields.items() if n not in values and not f.metadata["optional"]]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing")
    return cls(**values)


def _check_value(f: dataclasses.Field[Any], where: str, value: Any) -> None:
    if value is None and f.metadata["optional"]:
        return
    check: Check = f.metadata["check"]
    if not check.passes(value):
        raise ConfigError(f"{where} must be {check.allowed}, got {value!r}")


def _check_together(run: RunConfig) -> None:
    """What one value alone cannot tell."""
    t, shape = run.training, shapes.of(run.model)
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
        _check_adapters(run.method, shape, run.model)
    if run.method.restart_every:
        _check_restarts(run)
    if run.hardware.device == "gpu" and not _has_gpu():
        raise ConfigError("hardware.device is gpu, but torch finds no GPU here; allowed: auto, cpu")


def _check_restarts(run: RunConfig) -> None:
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
            f"training.steps={steps}, not more than method.restart_warmup ({m.restart_warmup}); allowed: a divisor of training.steps"
        )
    if m.family == "mora" and m.operator != "sharing" and not (m.operator == "auto" and (m.rank or 0) > 32):
        raise ConfigError(
            f"method.operator must be sharing for method={m.name}, got {m.operator}: "
            "only sharing has a second grouping to change to at a restart"
        )
    if run.quantization != "none":
        raise ConfigError(
            f"quantization must be none for method={m.name}, got {run.quantization}: "
            "every merge would round the base weights again"
        )


def _check_adapters(method: Method, shape: shapes.Shape, model: str) -> None:
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


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def rates(table: Any, family: str, rank: int | None) -> dict[str, Any]:
    """The protocol's rates (`use`, `candidates`) for a method family at a rank; for one not listed, the nearest's."""
    if family not in table:
        raise ConfigError(f"the protocol lists no learning rate for {family}: set training.learning_rate")
    ranks = table[family]
    if not _is_int(rank) or rank <= 0:
        nearest = min(ranks)
    else:
        nearest = min(ranks, key=lambda known: abs(math.log2(known / rank)) if known else math.inf)
    return ranks[nearest]


def _learning_rate(table: Any, family: str, rank: int | None) -> float:
    return rates(table, family, rank)["use"]


def _lora_alpha(table: Any, rank: Any) -> float | None:
    """The published alpha for a rank; 2 r, so a scale of 2, where none is published."""
    return table.get(rank, 2 * rank if _is_int(rank) else None)


def register_resolvers() -> None:
    """Teach OmegaConf the look-ups that conf/ uses."""
    OmegaConf.register_new_resolver("learning_rate", _learning_rate, replace=True)
    OmegaConf.register_new_resolver("lora_alpha", _lora_alpha, replace=True)


def explain(error: Exception, overrides: list[str], conf: Path) -> str:
    """One line for an error of Hydra's or OmegaConf's: what was wrong, where, and which values are allowed."""
    text = " ".join(str(error).split())
    if match := re.search(r"Could not find '(\w+)/([^']*)' Available options in '\w+': (.*?) Config search", text):
        group, value, allowed = match.groups()
        if group == "protocol":
            return f"there is no protocol {value} (<task>_<scale>); there are {', '.join(allowed.split())}"
        return f"{group} must be one of {', '.join(allowed.split())}, got {value!r}"
    if match := re.search(r"Could not override '([^']*)'", text):
        return _unknown_setting(match[1], overrides, conf)
    return text.split(" See https://")[0].split(" full_key:")[0]


def _unknown_setting(name: str, overrides: list[str], conf: Path) -> str:
    """The settings that stand where `name` was looked for, given the groups that were chosen."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    groups = [o for o in overrides if re.match(r"[a-z]+=[\w-]+$", o) and (conf / o.split("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base=None):
        node: Any = compose("config", overrides=groups)
    *path, _ = name.split(".")
    where = []
    for part in path:
        if not OmegaConf.is_dict(node) or part not in node:
            break
        where.append(part)
        node = node[part]
    allowed = ", ".join(str(k) for k in node) if OmegaConf.is_dict(node) else "nothing below it"
    kind = f" of {'.'.join(where)}={node['name']}" if where and "name" in node else ""
    return f"{name} is not a setting{kind}; allowed{' below ' + '.'.join(where) if where else ''}: {allowed}"
