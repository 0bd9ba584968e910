"""Bring records of schema 1 to schema 2: a method's settings lie in `peft`, and the record holds its identity.

    python scripts/migrate_records.py --results results

A record gets the key of its new identity, so its file gets a new name. The script first computes the old key again from
the settings in the record. If the two old keys differ, the script names the record and does not change it. The
checkpoints and the saved model of a migrated record get the new name, too.

A file that cannot be migrated is named in one line and left as it is; the other files are migrated.
Exit codes: 0 no record of schema 1 is left; 1 a file was left as it is; 2 a bad argument.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pydantic_core
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from experiments import files
from experiments.cli import script
from experiments.data import userfile
from experiments.errors import ConfigError, without_path
from experiments.identity import fingerprint, identity_of, key_of, name_of
from experiments.spec.compose import composition
from experiments.spec.run_config import Paths, RunConfig
from experiments.store import schema
from experiments.store.schema import RecordSection, Settings

NOT_IN_OLD_KEY = {
    "task": {"train_file", "eval_batch_size"},
    "training": {"checkpoint_every", "keep_checkpoints"},
    "hardware": {
        *("name", "device", "device_batch_size", "activation_checkpointing", "threads"),
        *("processes", "nodes", "sharding", "compile"),
    },
}


class OldMethod(RecordSection):
    """`config.method` of schema 1."""

    name: str
    family: str


class OldTask(RecordSection):
    """`config.task` of schema 1."""

    name: str
    train_file: str | None = None
    prompt: str | None = None


class OldConfig(RecordSection):
    """`config` of schema 1."""

    method: OldMethod
    task: OldTask
    training: Settings
    hardware: Settings
    scale: str
    quantization: str
    seed: int
    model: str


class OldRecord(RecordSection):
    """What the migration reads of a record of schema 1."""

    key: str
    config: OldConfig
    provenance: Settings


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/")
    results = parser.parse_args(arguments).results
    if not results.is_dir():
        raise ConfigError(f"--results: {results} is not a folder")
    left = 0
    for path in sorted((results / "runs").glob("*.json")):
        try:
            values = pydantic_core.from_json(path.read_bytes(), allow_inf_nan=False)
            if isinstance(values, dict) and values.get("schema") == schema.VERSION:
                continue
            print(moved(values, path, results))
        except (ConfigError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            reason = schema.first_fault(error) if isinstance(error, ValidationError) else without_path(error)
            print(f"left as it is: {path}: {reason}", file=sys.stderr)
            left += 1
    return 1 if left else 0


def moved(values: Any, path: Path, results: Path) -> str:
    """Replace a file of schema 1 by its record of schema 2, and rename its folders. Gives a line that says so.

    Raises:
        ConfigError: The file holds no record of schema 1, or its new record may not be written.
        HydraException: Its settings make no configuration; OmegaConfBaseException and ValueError say the same.
        OSError: The disk does not take the new record or the new name of a folder.
    """
    if not isinstance(values, dict) or values.get("schema") != 1:
        raise ConfigError(f"it is no record of schema 1 or {schema.VERSION}")
    record = migrated(values)
    if path.stem != values["key"]:
        raise ConfigError(f"it holds the key of {values['key']}.json")
    content = schema.checked(json.dumps(record).encode())
    target = path.with_name(f"{record['key']}.json")
    # A migration that was interrupted may have written the very same record.
    if target.exists() and pydantic_core.from_json(target.read_bytes()) != content:
        raise ConfigError(f"{target.name} exists already, and holds another result of the same run")
    folders = [(results / name / values["key"], results / name / record["key"]) for name in ("checkpoints", "models")]
    folders = [(old, new) for old, new in folders if old.is_dir()]
    for _, new in folders:
        if new.exists():
            raise ConfigError(f"{new} exists already")
    files.write_json(target, record)
    for old, new in folders:
        old.rename(new)
    path.unlink()
    return f"{values['key']} -> {record['key']}  {record['name']}"


def migrated(values: dict[str, Any]) -> dict[str, Any]:
    """The record of schema 2 for a record of schema 1.

    Raises:
        ConfigError: The old key does not follow from the record's settings.
        HydraException: The method or the task does not exist any more.
        ValueError: The record is no record of schema 1, or this version does not have its settings.
    """
    OldRecord.model_validate(values)
    version = values["provenance"].get("task_version")
    if key_of(old_identity(values["config"], version)) != values["key"]:
        raise ConfigError("its key is not that of its settings: the record lacks its data, model or task")
    config = new_config(values["config"])
    identity = identity_of(config) | {"task_version": version}
    return values | {
        "schema": 2,
        "key": key_of(identity),
        "name": name_of(config, identity),
        "config": config.for_record(),
        "identity": identity,
    }


def old_identity(config: dict[str, Any], task_version: int) -> dict[str, Any]:
    """The settings whose hash was the key of schema 1."""
    names = ("method", "task", "scale", "quantization", "seed", "training", "hardware")
    identity = {name: config[name] for name in names}
    for section, left_out in NOT_IN_OLD_KEY.items():
        identity[section] = {k: v for k, v in identity[section].items() if k not in left_out}
    if config["method"]["family"] == "none":
        identity["training"] = {}
    for section in ("method", "task", "hardware"):
        identity[section] = {k: v for k, v in identity[section].items() if v is not None}
    file, form = config["task"].get("train_file"), config["task"].get("prompt")
    data = userfile.checked(file, userfile.TRAIN, form) if file else ""
    return identity | {
        "model": fingerprint(config["model"], Paths(results="results")),
        "task_version": task_version,
        "data": data,
    }


def new_config(old: dict[str, Any]) -> RunConfig:
    """The configuration of schema 2: the file of the method, with the settings that the run had."""
    method, task = old["method"], old["task"]
    composed = composition([f"method={method['name']}", f"task={task['name']}", f"scale={old['scale']}"])
    for name, value in method.items():
        if name != "family" and value is not None:
            OmegaConf.update(composed, f"method.{name}", value)
    new: dict[str, Any] = {"method": OmegaConf.to_container(composed.method, resolve=True)}
    return RunConfig.model_validate({**old, **new, "dry_run": False})


if __name__ == "__main__":
    sys.exit(script.guarded(main))
