"""What a run is: the identity that is hashed to its key, its cell, its name.

Two runs are the same if nothing that can change the result differs. So the identity holds no folder, no logger, no
number of processes, and not where a model lies or how often a checkpoint is written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from . import files, tasks
from .errors import ConfigError
from .spec import compose, methods
from .spec.parse import typed
from .spec.run_config import Paths, RunConfig

TINY_VERSION = 1  # part of the fingerprint: raise it when anything about `tiny` changes
FILES = {"train_file", "heldout_file", "benchmark_path"}  # what is in a file counts (`Task.contents`), not its place
NOT_IN_IDENTITY = {
    # What the file of a method says to the harness or to a reader. A method's further settings act through `peft`.
    "method": {"label", "module", "looks", "rates", "quantizable", "official_dtype", "allowed"},
    # A copy of the hub's data has the key of the hub's data (`data.hub`).
    "task": {*FILES, "module", "data_dir", "eval_batch_size"},
    "training": {"checkpoint_every", "keep_checkpoints"},
    "hardware": {
        *("name", "device", "device_batch_size", "activation_checkpointing", "threads"),
        *("processes", "nodes", "sharding", "compile"),  # the same sums in another order
    },
}
NOT_HASHED = ("logger", "paths", "hydra")  # sections of a configuration that are no part of an identity
LONGEST_NAME = 4  # differences from the default that a name spells out
FIRST = ("model", "data", "heldout", "quantization")  # of these differences, what a reader looks for first


def identity_of(config: RunConfig) -> dict[str, Any]:
    """All that can change the result of `config`, known without loading a model or data.

    Settings that a method or a task does not have are left out, so that a new setting does not change old keys.
    """
    task, values = tasks.of(config), config.as_dict()
    sections: dict[str, Any] = {}
    for name, left_out in NOT_IN_IDENTITY.items():
        known = type(getattr(config, name)).model_fields.keys() - left_out
        sections[name] = {k: v for k, v in values[name].items() if k in known and v is not None}
    if not config.method.trains:
        sections["training"] = {}
    if module := tasks.module_hash(config.task.name):
        sections["task"]["module"] = module
    if module := methods.module_hash((config.method.peft or {}).get("peft_type")):
        sections["method"]["module"] = module
    if config.training.adapter_dtype == "official":
        sections["method"]["official_dtype"] = config.method.official_dtype
    return sections | {
        "scale": config.scale,
        "quantization": config.quantization,
        "seed": config.seed,
        "model": config.model_id or fingerprint(config.model, config.paths),
        "task_version": task.version,
        **task.contents(config),
    }


def makes_another_cell(setting: str) -> bool:
    """Whether a setting can change the cell of a run: with it, the run stands in no table of the others.

    Args:
        setting: The name of a setting or of a group of settings, such as `training.steps` or `hardware`.
    """
    section, _, name = setting.lstrip("+~").partition(".")
    if section == "task" and name in FILES:
        return True
    # The number format and other settings of the hardware are no part of a cell.
    return section.split("/")[0] not in (*NOT_HASHED, "hardware") and name not in NOT_IN_IDENTITY.get(section, ())


def key_of(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def cell_key_of(identity: dict[str, Any]) -> str:
    """The key of what the runs of a cell share: all but the learning rate, the seed and the number format."""
    training = {k: v for k, v in identity["training"].items() if k != "learning_rate"}
    return key_of({k: v for k, v in identity.items() if k not in ("seed", "hardware")} | {"training": training})


FOLDER, TINY = "folder-", "tiny-v"  # how the fingerprint of a folder and that of the model `tiny` begin


def fingerprint(model: str, paths: Paths) -> str:
    """What stands for the model in a run's identity: independent of where a folder lies.

    For a folder it covers the names and all bytes of its files. The cache remembers the sums of the files, so that a
    folder is read once and not at each start.

    Raises:
        ConfigError: A file in the folder cannot be read.
    """
    if model == "tiny":
        return f"{TINY}{TINY_VERSION}"
    folder = Path(model)
    if not folder.is_dir():
        return model
    try:
        inside = sorted(p for p in folder.iterdir() if p.is_file())
        sums = files.sums(inside, paths.sums(folder))
    except OSError as error:
        raise ConfigError(f"model {model} cannot be read: {error.strerror}") from None
    lines = "".join(f"{path.name} {digest}\n" for path, digest in sums.items())
    return FOLDER + hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16]


def model_of(fingerprint: str) -> str | None:
    """The model that has this fingerprint; None for a folder, whose fingerprint does not hold its name."""
    if fingerprint.startswith(FOLDER):
        return None
    return "tiny" if fingerprint.startswith(TINY) else fingerprint


def cell_of(config: RunConfig) -> dict[str, Any]:
    """What identifies the cell to a reader of tables."""
    m = config.method
    return {
        "method": m.name,
        "rank": m.rank,
        "operator": m.operator_in_force,
        "task": config.task.name,
        "scale": config.scale,
        "model": config.model_id or config.model,
        "learning_rate": config.training.learning_rate,
        "seed": config.seed,
    }


def flat(identity: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting of an identity."""
    for name, value in identity.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def differences(identity: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (value, other value) of each setting that differs; None where a setting is missing."""
    here, there = dict(flat(identity)), dict(flat(other))
    names = [*here, *(name for name in there if name not in here)]
    return {n: (here.get(n), there.get(n)) for n in names if here.get(n) != there.get(n)}


def name_of(config: RunConfig, identity: dict[str, Any] | None = None) -> str:
    """A short name for people: task, scale, method, rank, then what differs from the default of these, rate and seed.

    Runs with different keys have different names. A folder of a model and a data file have their own name and the start
    of the hash of their content: `model=qwen3-0.6b-1a2b3c4d-data=tickets-5e6f7a8b`.

    Args:
        config: The run.
        identity: Its identity, where it is known already.
    """
    identity = identity_of(config) if identity is None else identity
    m, rate = config.method, config.training.learning_rate
    parts = [config.task.name, config.scale, m.name, *([f"r{m.rank}"] if m.rank else [])]
    unlike = {n: v for n, (v, _) in differences(identity, _default(config)).items() if n not in ("seed", RATE)}
    shown = {n: unlike[n] for n in FIRST if n in unlike} | unlike
    if model_of(str(shown.get("model", ""))) is None:
        shown["model"] = f"{Path(config.model).resolve().name}-{shown['model'].removeprefix(FOLDER)[:8]}"
    for name, path in (("data", config.task.train_file), ("heldout", config.task.heldout_file)):
        if path and re.fullmatch("[0-9a-f]{16}", str(shown.get(name))):  # a file; a data set of the hub is its name
            shown[name] = f"{Path(path).stem}-{shown[name][:8]}"
    # A setting of the method's file and what it becomes in `peft` are one difference.
    words = list(dict.fromkeys(f"{_plain(name, identity, unlike)}={_word(value)}" for name, value in shown.items()))
    if len(words) > LONGEST_NAME:
        words = [*words[:LONGEST_NAME], f"and-{len(words) - LONGEST_NAME}-more-{key_of(unlike)[:6]}"]
    parts += words + ([f"lr{_word(rate)}"] if rate is not None else []) + [f"seed{config.seed}"]
    return "-".join(parts)


RATE = "training.learning_rate"


def group_of(name: str) -> str:
    """The name of a run without its learning rate and seed: the runs of a cell share it."""
    return re.sub(r"(-lr[\d.e+-]+)?-seed\d+$", "", name)


def _default(config: RunConfig) -> dict[str, Any]:
    """The identity of a run that is told nothing but the method, its rank, the task and the scale."""
    m = config.method
    arguments = [f"method={m.name}", f"task={config.task.name}", f"scale={config.scale}"]
    if m.rank is not None:
        arguments.append(f"method.rank={m.rank}")
    default = _identity_of_arguments(tuple(arguments), tuple(compose.folders()))
    return default | {"hardware": {"precision": "bf16" if config.hardware.device == "gpu" else "fp32"}}


@cache
def _identity_of_arguments(arguments: tuple[str, ...], folders: tuple[Path, ...]) -> dict[str, Any]:
    """The runs of a sweep share few defaults, and a composition takes tens of milliseconds."""
    return identity_of(typed(compose.composition(list(arguments))))


def _plain(name: str, identity: dict[str, Any], unlike: dict[str, Any]) -> str:
    """`method.peft.mora_dropout` -> `dropout`: the last part, without the name of a PEFT method before it."""
    last = name.rsplit(".", 1)[-1]
    if name == f"method.peft.{last}" and last in identity["method"] and f"method.{last}" not in unlike:
        return f"peft.{last}"  # `method.<last>` sets both, and has the plain name
    return re.sub(r"^(lora|mora)_", "", last)


def _word(value: Any) -> str:
    """A value as a word without spaces. Different values have different words."""
    if isinstance(value, list):
        return "+".join(map(_word, value))
    text = str(value)
    if isinstance(value, float):
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    word = re.sub(r"[^\w.+-]+", "-", text.replace("/", "--"))  # `owner/name` of the hub, which has no `--`
    if word.replace("--", "/") != text:
        word = f"{word}-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:6]}"
    return word or "none"
