"""The trained model of a finished run, back in memory: to score it again, or to export it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import tasks
from ..errors import ConfigError, reason_of
from ..identity import identity_of, key_of
from ..measure.benchmarks import LmEvalBenchmarks
from ..spec.parse import from_record
from ..spec.run_config import Method, Paths, RunConfig
from ..store.records import Record, Store, finite
from ..train import base_models

KEY = re.compile(r"[0-9a-f]{16}")
# The files in which PEFT keeps an adapter.
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_SETTINGS = "adapter_config.json"
ALONE = {"processes": 1, "nodes": 1, "sharding": "none"}


def finished(store: Store, key: str) -> Record:
    """The record of a finished run.

    Raises:
        ConfigError: There is no record with this key, or it cannot be read, or its run did not finish.
    """
    if not KEY.fullmatch(key):
        raise ConfigError(f"KEY must be the name of a record without .json, 16 hexadecimal digits, got {key!r}")
    try:
        record = store.record(key)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no record {store.path(key)}") from None
    except ValueError as error:
        raise ConfigError(f"{store.path(key)} is not a readable record: {error}") from None
    if record.status != "finished":
        raise ConfigError(f"{store.path(key)} is of a run that is {record.status}, not finished")
    return record


def located(key: str, results: Path) -> tuple[Store, str]:
    """The results folder and the key of a record, which is named by its key in `results` or by the path of its file.

    Raises:
        ConfigError: The file is not in the folder `runs` of a results folder.
    """
    path = Path(key)
    if path.suffix != ".json":
        return Store(results), key
    if path.absolute().parent.name != "runs":
        raise ConfigError(f"KEY: {key} is not in a folder runs/ of a results folder, as <results>/runs/<key>.json is")
    return Store(path.parent.parent), path.stem


def settings(record: Record, store: Store) -> RunConfig:
    """The record's own configuration with the precision of the run; folders, device and one process of this machine.

    Raises:
        ConfigError: In this version of the project or on this machine the settings mean another run: the data, the
            model or the task has changed.
    """
    values = dict(record.config)
    if isinstance(values.get("hardware"), dict):
        values["hardware"] = values["hardware"] | {"device": "auto"} | ALONE
    try:
        config = from_record(values)
    except ConfigError as error:
        raise ConfigError(f"{store.path(record.key)}: {error}") from None
    if key_of(identity_of(config)) != record.key:
        raise ConfigError(
            f"{store.path(record.key)}: the same settings are another run by now (the data file, the model folder, "
            "or the version of the task has changed); run it again"
        )
    if record.provenance.get("precision") not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"{store.path(record.key)} does not say which precision the run had")
    return config.replace(
        paths=Paths(results=str(store.results), cache=None),
        hardware=config.hardware.replace(precision=record.provenance["precision"]),
    )


def folder_of(record: Record, store: Store) -> Path:
    """The folder of the run's model.

    Raises:
        ConfigError: The folder holds no model.
    """
    folder = store.model(record.key)
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{record.name} has no saved model: {folder} holds no weights")
    return folder


def load_trained(model: Any, config: RunConfig, folder: Path) -> None:
    """Load the weights that were saved in `folder` into `model`, which is adapted as it was before the training.

    Raises:
        ConfigError: The folder holds other weights than the model has, or broken ones.
    """
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from ..spec.skeletons import configuration
    from ..train.restarts import Restarts

    with readable(folder):
        if not isinstance(model, PeftModel):
            for path in folder.glob("*.safetensors"):
                finite_weights(path)
            trained = AutoModelForCausalLM.from_pretrained(
                folder, config=configuration(folder), dtype=model.dtype, trust_remote_code=False
            )
            model.load_state_dict(trained.state_dict())
            return
        weights = finite_weights(folder / ADAPTER_WEIGHTS)
        own, with_base = (get_peft_model_state_dict(model, save_embedding_layers=x).keys() for x in (False, True))
        # If the head or the embedding is adapted, PEFT saves its base weight beside the adapter.
        if odd := (weights.keys() - (with_base - own)) ^ own:
            raise ConfigError(
                f"{folder} does not hold the adapter of this model: {sorted(odd)[0]} is in only one of the two"
            )
        check_same_adapter(folder, model.peft_config["default"], config.method)
        Restarts(model, config).load(folder)
        set_peft_model_state_dict(model, weights)


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Say in one line what PEFT, transformers and safetensors raise over a broken file.

    Raises:
        ConfigError: In place of an error of these libraries.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"{folder} cannot be loaded: {reason_of(error)}") from error


def finite_weights(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ConfigError: A tensor holds NaN or infinity.
    """
    import torch
    from safetensors.torch import load_file

    weights = load_file(path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConfigError(f"{path} is broken: {name} holds NaN or infinity")
    return weights


def adapter_settings(folder: Path) -> dict[str, Any]:
    """The settings in adapter_config.json.

    Raises:
        ConfigError: The file holds another JSON value than an object.
    """
    path = folder / ADAPTER_SETTINGS
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings")
    return values


def check_same_adapter(folder: Path, expected: Any, method: Method) -> None:
    """Check that the saved settings of an adapter are those of the run: shapes alone do not tell operators apart.

    Raises:
        ConfigError: The kind of adapter or a setting differs.
    """
    saved, own = adapter_settings(folder), expected.to_dict()
    # A restart changes the grouping, so the file and the configuration of the run may differ in the grouping.
    fixed = [name for name in method.peft or {} if not (method.restart_every and name in ("in_groups", "out_groups"))]
    for name in fixed:
        if name in saved and _settled(saved[name]) != _settled(own[name]):
            raise ConfigError(
                f"{folder / ADAPTER_SETTINGS} is of another adapter: {name} is {saved[name]!r}, "
                f"the run has {own[name]!r}"
            )


def _settled(value: Any) -> Any:
    """A list that is sorted, in place of a set or a list: the order of a set is arbitrary."""
    return sorted(map(str, value)) if isinstance(value, list | set | tuple) else value


def restore(record: Record, store: Store) -> tuple[Any, Any]:
    """The model in float32 on the CPU, with its adapter if it has one, in evaluation mode; and its tokenizer.

    The base weights are loaded in the number format of the run, and quantized where the run quantized them: so they are
    the weights that the run trained on. Then they are converted to float32, so that merging an update rounds nothing
    away.

    Raises:
        ConfigError: The run cannot be restored on this machine.
    """
    from ..train import adapt
    from ..train.placement import Placement, base_dtype
    from ..train.quantization import dequantized
    from ..train.trainer import quiet

    quiet()
    folder, config = folder_of(record, store), settings(record, store)
    dtype = base_dtype(config, Placement("cpu", config.hardware.precision))
    network, tokenizer, _ = base_models.of_run(config, dtype)
    model = adapt.adapt(dequantized(network), config).model
    load_trained(model, config, folder)
    return model.float().eval(), tokenizer


def score(record: Record, store: Store, config: RunConfig) -> dict[str, Any]:
    """The metrics of a saved model on `config.task`, in the order of the runner: the baseline, then the trained model.

    Args:
        record: The record of the finished run.
        store: The results folder with the model of the run.
        config: `settings(record, store)`, perhaps with another task.

    Raises:
        ConfigError: The run cannot be scored on this machine.
    """
    task = tasks.of(config)
    task.check(config)
    folder, network, tokenizer = base_of(record, store, config)
    prepared = task.prepare(config, tokenizer)
    model = adapted(network, config)
    before = tasks.measured(task.baseline, model, tokenizer, prepared) if folder else {}
    if folder:
        load_trained(model, config, folder)
    return finite(before | tasks.measured(task.evaluate, model, tokenizer, prepared))


def base_of(record: Record, store: Store, config: RunConfig) -> tuple[Path | None, Any, Any]:
    """The folder of a run's trained model (None where nothing was trained), its base model, and its tokenizer.

    The base model is on the device and in the number format of `config`.
    """
    from ..train.placement import base_dtype, prepare_device
    from ..train.trainer import quiet

    quiet()
    folder = folder_of(record, store) if config.method.trains else None
    placement = prepare_device(config)
    network, tokenizer, _ = base_models.of_run(config, base_dtype(config, placement), placement.device)
    return folder, network, tokenizer


def adapted(network: Any, config: RunConfig) -> Any:
    """A base model with the adapter of a run, as before the training."""
    from transformers import set_seed

    from ..train import adapt

    set_seed(config.seed)
    return adapt.adapt(network, config).model


def score_benchmarks(record: Record, store: Store, benchmarks: LmEvalBenchmarks) -> dict[str, Any]:
    """The scores of a saved model on benchmarks of lm-eval, with the batch size of the run's own questions.

    Raises:
        ConfigError: The run cannot be scored on this machine.
    """
    config = settings(record, store)
    folder, network, tokenizer = base_of(record, store, config)
    model = adapted(network, config)
    if folder:
        load_trained(model, config, folder)
    return finite(benchmarks.scores(model, tokenizer, config.task.eval_batch_size or 1))


def check_addable(record: Record, names: Sequence[str]) -> None:
    """Check that scores of these names can be added to a record.

    Raises:
        ConfigError: The record holds a metric of such a name already, or the task of the run declares one.
    """
    task = tasks.get(record.cell["task"])
    for name in names:
        if name in record.metrics["final"]:
            raise ConfigError(f"--add: the record holds {name} already, and a score is never replaced")
        if name in {metric.name for metric in task.metrics}:
            raise ConfigError(
                f"--add: {name} is the name of a metric that task={task.name} measures in its own way; "
                f"name the metric of lm-eval, such as {name}:exact_match"
            )


def add(store: Store, key: str, names: Sequence[str], scores: dict[str, Any], note: dict[str, Any]) -> Path:
    """Add scores of benchmarks to a record: all of them, or none. No other process can change the record meanwhile.

    Further numbers of lm-eval that the record holds already stay as they are.

    Args:
        store: The results folder.
        key: The key of the record.
        names: The names of the benchmarks.
        scores: The scores of these names, and further numbers of lm-eval.
        note: How the scores were measured, for `provenance.added`.

    Raises:
        ConfigError: The record holds a metric of such a name by now.
        StorageError: The record cannot be written; it is as it was before.
    """
    with store.claim(key):
        record = finished(store, key)
        check_addable(record, names)
        new = {name: score for name, score in scores.items() if name not in record.metrics["final"]}
        record.metrics["final"] |= new
        record.provenance.setdefault("added", []).append({**note, "scores": sorted(new)})
        return store.write(record)


def added(record: Record) -> set[str]:
    """The names of the scores in a record that its run did not measure."""
    return {name for entry in record.provenance.get("added", []) for name in entry["scores"]}
