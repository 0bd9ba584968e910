"""Records: one JSON file a run, named by a key that says what the run is.

The key is a hash of all that can change the result and of nothing else: not the output folder, the logger, where a
model folder lies, how often a checkpoint is written, or which device did the work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import ranks
from .config import RunConfig
from .errors import ConfigError

SCHEMA = 1
NOT_IN_KEY = {
    "task": {"train_file", "eval_batch_size"},  # what is in the file counts, not where it lies
    "training": {"checkpoint_every", "keep_checkpoints"},
    "hardware": {
        *("name", "device", "device_batch_size", "activation_checkpointing", "threads"),
        *("processes", "nodes", "sharding", "compile"),  # the same sums in another order
    },
}


@dataclass
class Record:
    """What a run leaves behind (DESIGN: record, schema 1)."""

    key: str
    name: str
    status: str  # running, finished, failed, interrupted
    cell: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=lambda: {"final": {}, "curve": []})
    cost: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    schema: int = SCHEMA


def identity(
    config: RunConfig, task_version: int, model_fingerprint: str, data_fingerprint: str = ""
) -> dict[str, Any]:
    """The part of a configuration that can change the result."""
    values = config.as_dict()
    kept = {name: values[name] for name in ("method", "task", "scale", "quantization", "seed", "training", "hardware")}
    for section, names in NOT_IN_KEY.items():
        kept[section] = {k: v for k, v in kept[section].items() if k not in names}
    if config.method.family == "none":
        kept["training"] = {}  # nothing trains
    # Settings that a method or a task does not have are left out, so that a new one does not change old keys.
    for section in ("method", "task", "hardware"):
        kept[section] = {k: v for k, v in kept[section].items() if v is not None}
    return kept | {"model": model_fingerprint, "task_version": task_version, "data": data_fingerprint}


def key_of(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write to a temporary name, flush to the disk, rename: a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def finite(value: Any) -> Any:
    """`value` with null in place of every number that JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Store:
    """The records below `results`, and beside them what runs keep: checkpoints and trained models."""

    def __init__(self, results: str | Path) -> None:
        self.results = Path(results)

    def path(self, key: str) -> Path:
        return self.results / "runs" / f"{key}.json"

    def checkpoints(self, key: str) -> Path:
        return self.results / "checkpoints" / key

    def model(self, key: str) -> Path:
        return self.results / "models" / key

    def read(self, key: str) -> Record | None:
        """The record with this key. None where there is none, or none that this version can read."""
        try:
            values = json.loads(self.path(key).read_text())
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}, this version reads {SCHEMA}")
            return Record(**values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            print(f"warning: {self.path(key)} is not a readable record ({error}); it is ignored", file=sys.stderr)
            return None

    def write(self, record: Record) -> Path:
        """Write a record; values that are not finite (a diverged run's) become null. Of several ranks rank 0 writes."""
        if ranks.first():
            write_json(self.path(record.key), finite(dataclasses.asdict(record)))
        return self.path(record.key)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold the only right to run `key`, waiting for whoever has it. The system frees it when a process dies.

        Raises:
            ConfigError: The results folder cannot be written.
        """
        # Lock files stay: removing one would let a waiter and a newcomer hold "the same" lock on two files.
        path = self.results / "locks" / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "a+")  # noqa: SIM115  (closed below)
        except OSError as error:
            raise ConfigError(f"paths.results: cannot write to {self.results}: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                print(
                    f"cell {key} is being run by {lock.read().strip() or 'another process'}; waiting", file=sys.stderr
                )
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield
