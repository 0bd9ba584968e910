"""One run, from a configuration to its record: the whole story on one screen."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from . import models, tasks
from .config import RunConfig
from .records import Record, Store, identity, key_of
from .tasks import userfile


def run(config: RunConfig) -> Record:
    """Run the cell that `config` describes, unless its record says that this was done.

    An interrupted cell goes on from its last checkpoint. The record is written when the run starts (`running`) and
    when it ends (`finished`, `failed`, `interrupted`).

    Raises:
        ConfigError: The configuration does not fit the model or the machine; no record is left.
    """
    task = tasks.get(config.task.name)
    key = key_of(cell_identity(config))
    store = Store(config.paths.results)
    with store.claim(key):
        record = store.read(key)
        if record and record.status == "finished":
            print(f"{record.name}: finished before, at {record.provenance['finished_at']}")
            return record
        return execute(config, task, key, store)


def cell_identity(config: RunConfig) -> dict[str, Any]:
    """All that can change the result of `config`, known without loading a thing; `key_of` it is the key."""
    t = config.task
    data = userfile.checked(t.train_file, t.prompt) if t.train_file else ""
    return identity(config, tasks.get(config.task.name).version, models.fingerprint(config.model), data)


def execute(config: RunConfig, task: tasks.Task, key: str, store: Store) -> Record:
    """Train and measure; the caller holds the claim on `key`."""
    from . import callbacks, cost, methods, provenance, spectrum, training
    from .hardware import place
    from .tracking import WandbMirror

    training.quiet()
    placement = place(config)
    dtype = methods.base_dtype(config, placement)
    network, tokenizer, revision = models.load(
        config.model,
        config.paths.cache_folder,
        dtype,
        config.seed,
        quantization=config.quantization,
        device=placement.device,
    )
    prepared = task.prepare(config, tokenizer)
    training.set_seed(config.seed)  # adapters may start at random
    adapted = methods.adapt(network, config)

    meter = cost.Meter(adapted.model, placement)
    trainer = training.build(
        adapted,
        prepared.train,
        lambda: task.measure(adapted.model, tokenizer, prepared),
        config,
        placement,
        store.checkpoints(key),
    )

    record = Record(key, name_of(config), "running", cell_of(config), config.for_record())
    record.provenance = provenance.describe() | {
        "model_revision": revision,
        "data_fingerprint": prepared.fingerprint,
        "task_version": task.version,
        "device": placement.device,
        "precision": placement.precision,
        "adapter_dtype": cost.adapter_dtype(adapted.model),
        **prepared.notes,
    }
    store.write(record)

    mirror = WandbMirror(config, record) if config.logger.name == "wandb" else None
    for callback in (callbacks.ProgressBar(), mirror):
        if callback:
            trainer.add_callback(callback)
    try:
        trains = config.method.family != "none"
        before = task.baseline(adapted.model, tokenizer, prepared) if trains else {}
        state = training.train(trainer) if trains else trainer.state
        with callbacks.measuring(adapted.model):
            final = before | task.evaluate(adapted.model, tokenizer, prepared)
        record.metrics = {"final": final, "curve": callbacks.curve(state.log_history)}
        if trains:
            training.save(trainer, store.model(key))
        record.cost = meter.read(state, prepared, config, store.model(key))
        if config.training.record_spectrum:
            start, *_ = models.load(config.model, config.paths.cache_folder, dtype, config.seed)
            record.metrics["spectrum"] = spectrum.of_run(adapted.model, start)
        record.status = "finished"
    except (KeyboardInterrupt, SystemExit):  # the latter is how submitit leaves when it has queued the job again
        record.status = "interrupted"
        raise
    except Exception as error:
        record.metrics["curve"] = callbacks.curve(trainer.state.log_history)
        record.status, record.error = "failed", {"type": type(error).__name__, "message": str(error)}
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        record.provenance["finished_at"] = provenance.now()
        store.write(record)
        if mirror:
            mirror.finish(record)
    if record.status == "finished":
        shutil.rmtree(store.checkpoints(key), ignore_errors=True)
    return record


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
    if config.training.learning_rate is not None:
        parts.append(f"lr{config.training.learning_rate:g}")
    parts.append(f"seed{config.seed}")
    return "-".join(p for p in parts if p)
