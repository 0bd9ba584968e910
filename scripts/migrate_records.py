"""Bring records of schema 1 to schema 2: a method's settings lie in `peft`, and the record holds its identity.

    python scripts/migrate_records.py --results results

A record gets the key of its new identity, so its file gets a new name. The script first computes the old key again from
the settings in the record. If the two old keys differ, the script names the record and does not change it. The
checkpoints and the saved model of a migrated record get the new name, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import OmegaConf

from experiments import files
from experiments.cli import script
from experiments.data import userfile
from experiments.errors import ConfigError
from experiments.identity import fingerprint, identity_of, key_of, name_of
from experiments.spec.compose import composition
from experiments.spec.run_config import Paths, RunConfig

NOT_IN_OLD_KEY = {
    "task": {"train_file", "eval_batch_size"},
    "training": {"checkpoint_every", "keep_checkpoints"},
    "hardware": {
        *("name", "device", "device_batch_size", "activation_checkpointing", "threads"),
        *("processes", "nodes", "sharding", "compile"),
    },
}


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/")
    results = parser.parse_args(arguments).results
    left = 0
    for path in sorted((results / "runs").glob("*.json")):
        values = json.loads(path.read_bytes())
        if values.get("schema") != 1:
            continue
        try:
            record = migrated(values)
        except ConfigError as error:
            print(f"left as it is: {path}: {error}", file=sys.stderr)
            left += 1
            continue
        files.write_json(results / "runs" / f"{record['key']}.json", record)
        for folder in ("checkpoints", "models"):
            if (results / folder / values["key"]).is_dir():
                (results / folder / values["key"]).rename(results / folder / record["key"])
        path.unlink()
        print(f"{values['key']} -> {record['key']}  {record['name']}")
    return 1 if left else 0


def migrated(values: dict[str, Any]) -> dict[str, Any]:
    """The record of schema 2 for a record of schema 1.

    Raises:
        ConfigError: The old key does not follow from the record's settings, or the method does not exist any more.
    """
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
