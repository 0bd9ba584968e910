"""The typed run configuration. Wrong values are found here and in `checks`, before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Check:
    """A test of one value, and how to say what passes it."""

    passes: Callable[[Any], bool]
    allowed: str


LARGEST = 2**32 - 1  # of any integer; a longer one overflows somewhere below


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


POSITIVE_INT = Check(lambda v: _is_int(v) and v > 0, "a positive integer")
COUNT = Check(lambda v: _is_int(v) and v >= 0, "an integer of at least 0")
SEED = Check(lambda v: _is_int(v) and 0 <= v <= LARGEST, f"an integer from 0 to {LARGEST}")
THREADS = Check(lambda v: _is_int(v) and 0 < v <= 1024, "an integer from 1 to 1024")
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


def setting(check: Check, *, optional: bool = False, nullable: bool = False) -> Any:
    """A field of a section. An optional one is not in every section; a nullable one may be null where it is."""
    metadata = {"check": check, "optional": optional or nullable, "nullable": nullable}
    return field(default=None, metadata=metadata) if optional or nullable else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the model is adapted. Settings that a method does not have are None."""

    name: str = setting(TEXT)
    family: str = setting(one_of("none", "fft", "lora", "mora"))
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
    data: str | None = setting(one_of("packages", "hub"), optional=True)
    train_file: str | None = setting(TEXT, nullable=True)
    train_rows: int | None = setting(POSITIVE_INT, nullable=True)
    heldout_rows: int | None = setting(POSITIVE_INT, nullable=True)
    probe_documents: int | None = setting(COUNT, nullable=True)
    questions: int | None = setting(POSITIVE_INT, nullable=True)
    prompt: str | None = setting(one_of("alpaca", "open-instruct"), optional=True)
    max_length: int | None = setting(POSITIVE_INT, optional=True)
    new_tokens: int | None = setting(POSITIVE_INT, optional=True)
    drop_overlap: bool | None = setting(SWITCH, optional=True)
    eval_batch_size: int | None = setting(POSITIVE_INT, nullable=True)


@dataclass(frozen=True, kw_only=True)
class Training:
    learning_rate: float = setting(POSITIVE, nullable=True)  # None for method=none alone
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
    device_batch_size: int | None = setting(POSITIVE_INT, nullable=True)
    activation_checkpointing: bool = setting(SWITCH)
    threads: int | None = setting(THREADS, nullable=True)
    processes: int | None = setting(POSITIVE_INT, nullable=True)  # on each node
    nodes: int | None = setting(POSITIVE_INT, nullable=True)
    sharding: str | None = setting(one_of("none", "full", "gradients", "zero2"), optional=True)
    compile: bool | None = setting(SWITCH, optional=True)

    @property
    def ranks(self) -> int:
        """Processes over all nodes."""
        return (self.processes or 1) * (self.nodes or 1)

    @property
    def distributed(self) -> bool:
        """Whether the run needs a process group: several ranks, or an engine that shards over one."""
        return self.ranks > 1 or self.sharding not in (None, "none")


@dataclass(frozen=True, kw_only=True)
class Logger:
    name: str = setting(one_of("none", "wandb"))
    project: str | None = setting(TEXT, nullable=True)


@dataclass(frozen=True, kw_only=True)
class Paths:
    results: str = setting(TEXT)
    cache: str | None = setting(TEXT, nullable=True)

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
    quantization: str = setting(one_of("none", "nf4", "int8"))
    seed: int = setting(SEED)
    dry_run: bool | None = setting(SWITCH, nullable=True)  # a question, no run: records have none
    training: Training
    hardware: Hardware
    logger: Logger
    paths: Paths
    protocol: dict[str, Any]

    @property
    def rank_batch(self) -> int:
        """Examples of each global batch that one rank trains on."""
        return self.training.batch_size // self.hardware.ranks

    @property
    def device_batch(self) -> int:
        """Examples that a device computes at once; it accumulates gradients until they are `rank_batch`."""
        return min(self.hardware.device_batch_size or self.rank_batch, self.rank_batch)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def for_record(self) -> dict[str, Any]:
        """`as_dict` with the default folders: where a machine keeps its files is no part of what ran."""
        values = self.as_dict() | {"paths": dataclasses.asdict(Paths(results="results"))}
        del values["dry_run"]
        return values
