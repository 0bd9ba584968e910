"""What a run is, as a key, a cell, a name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from . import tasks
from .data import userfile
from .errors import ConfigError
from .spec.run_config import RunConfig

NOT_IN_KEY = {
    "task": {"train_file", "eval_batch_size"},  # what is in the file counts, not where it lies
    "training": {"checkpoint_every", "keep_checkpoints"},
    "hardware": {
        *("name", "device", "device_batch_size", "activation_checkpointing", "threads"),
        *("processes", "nodes", "sharding", "compile"),  # the same sums in another order
    },
}


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


TINY_VERSION = 1  # part of the fingerprint: raise it when anything about `tiny` changes


def fingerprint(model: str) -> str:
    """What stands for the model in a run's key: independent of where a folder lies, light to compute.

    For a folder it covers every file's name and size, all of config.json, and the ends of the weight files.

    Raises:
        ConfigError: A file in the folder cannot be read.
    """
    if model == "tiny":
        return f"tiny-v{TINY_VERSION}"
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    try:
        for path in sorted(p for p in folder.iterdir() if p.is_file()):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                if path.suffix == ".json":
                    digest.update(file.read())
                else:
                    digest.update(file.read(1 << 20))
                    file.seek(max(0, path.stat().st_size - (1 << 20)))
                    digest.update(file.read())
    except OSError as error:
        raise ConfigError(f"model {model} cannot be read: {error.strerror}") from None
    return "folder-" + digest.hexdigest()[:16]


def cell_identity(config: RunConfig) -> dict[str, Any]:
    """All that can change the result of `config`, known without loading a thing; `key_of` it is the key."""
    t = config.task
    data = userfile.checked(t.train_file, t.prompt) if t.train_file else ""
    return identity(config, tasks.of(config).version, fingerprint(config.model), data)


def cell_of(config: RunConfig) -> dict[str, Any]:
    """What identifies the cell to a reader of tables."""
    m = config.method
    return {
        "method": m.name,
        "rank": m.rank,
        "operator": m.operator,
        "task": config.task.name,
        "scale": config.scale,
        "model": config.model,
        "learning_rate": config.training.learning_rate,
        "seed": config.seed,
    }


def name_of(config: RunConfig) -> str:
    """A short name for people; the key is what identifies a run."""
    m = config.method
    parts = [config.task.name, config.scale, m.name, f"r{m.rank}" if m.rank else "", m.operator or ""]
    if m.surplus == "fold":
        parts.append("fold")
    if m.groupings == "four":
        parts.append("four")
    if config.model != config.protocol["model"]:
        parts.append(Path(config.model).name)
    if config.training.learning_rate is not None:
        parts.append(f"lr{config.training.learning_rate:g}")
    parts.append(f"seed{config.seed}")
    return "-".join(p for p in parts if p)
