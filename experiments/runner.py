"""One run, from a configuration to its record: the whole story on one screen."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

from . import tasks
from .errors import ConfigError, StorageError
from .identity import cell_of, identity_of, key_of, name_of
from .spec import ranks
from .spec.run_config import RunConfig
from .store import failures
from .store.records import Record, Store, curve
from .study.cells import tables_of
from .train import base_models


def run(config: RunConfig) -> Record:
    """Run the cell that `config` describes, unless its record says that this was done.

    An interrupted cell goes on from its last checkpoint. The record is written when the run starts (`running`) and
    when it ends (`finished`, `failed`, `interrupted`). The ranks that torchrun or srun started all come here; where
    several are wanted and none were started, this process starts them, and each goes through `execute`.

    Raises:
        ConfigError: The configuration does not fit the model or the machine; no record is left.
        StorageError: The disk does not take the record.
    """
    if ranks.given():
        ranks.join(config.hardware.device)
        config = ranks.agree(config)
    task = tasks.of(config)
    key = key_of(identity_of(config))
    store = Store(config.paths.results)
    # Asked before the claim as well, so that a finished cell in a folder that cannot be written is still recognised.
    if record := finished_before(ranks.agree(store.read(key, quietly=True))):
        return record
    with store.claim(key) if ranks.first() else contextlib.nullcontext():
        record = ranks.agree(store.read(key))
        if done := finished_before(record):
            return done
        if record is None and ranks.first():
            store.set_aside(key)
        if config.hardware.distributed and not ranks.given():
            from .train import spawn

            return spawn.run(config, key, store)
        return execute(config, task, key, store)


def finished_before(record: Record | None) -> Record | None:
    """The record of a finished run, which is said; None for any other."""
    if record is None or record.status != "finished":
        return None
    if ranks.first():
        print(f"{record.name}: finished before, at {record.provenance.get('finished_at')}")
    return record


def execute(config: RunConfig, task: tasks.Task, key: str, store: Store) -> Record:
    """Train and measure; the caller holds the claim on `key`. On several ranks each of them comes here."""
    from .measure import update_spectrum
    from .measure.evaluation import weights_on_every_rank
    from .store import provenance
    from .store.wandb_mirror import WandbMirror
    from .train import adapt, callbacks, cost
    from .train import trainer as training
    from .train.placement import base_dtype, place

    identity = identity_of(config)
    record = Record(key, name_of(config, identity), "running", cell_of(config), config.for_record(), identity)
    record.provenance = provenance.describe()
    try:
        training.quiet()
        placement = place(config)
        dtype = base_dtype(config, placement)
        with ranks.one_first():
            network, tokenizer, revision = base_models.of_run(config, dtype, placement.device)
            prepared = task.prepare(config, tokenizer)
        training.set_seed(config.seed)  # adapters may start at random
        adapted = adapt.adapt(network, config)
        meter = cost.Meter(adapted.model, placement)
        trainer = training.build(
            adapted,
            prepared.train,
            lambda: task.measure(adapted.model, tokenizer, prepared),
            config,
            placement,
            store.checkpoints(key),
        )
    except (ConfigError, StorageError):
        raise  # nothing was begun, so nothing is left
    except Exception as error:
        fail(record, error, config)
        store.write(record)
        return record

    record.provenance |= {
        "model_revision": revision,
        "data_fingerprint": prepared.fingerprint,
        "task_version": task.version,
        "device": placement.device,
        "precision": placement.precision,
        "processes": config.hardware.processes,
        "nodes": config.hardware.nodes,
        "sharding": config.hardware.sharding,
        "compile": config.hardware.compile,
        "adapter_dtype": cost.adapter_dtype(adapted.model),
        **prepared.notes,
    }
    store.write(record)

    mirrored = config.logger.name == "wandb" and ranks.first()
    mirror = WandbMirror(config, record, tables_of(identity)) if mirrored else None
    bar = callbacks.ProgressBar() if ranks.first() else None
    for callback in (bar, mirror):
        if callback:
            trainer.add_callback(callback)
    try:
        trains = config.method.trains
        before = task.baseline(adapted.model, tokenizer, prepared) if trains else {}
        with contextlib.closing(bar) if bar else contextlib.nullcontext():
            state = training.train(trainer) if trains else trainer.state
        final = before | task.evaluate(adapted.model, tokenizer, prepared)
        record.metrics = {"final": final, "curve": curve(state.log_history)}
        if trains:
            training.save(trainer, store.model(key))
        record.cost = meter.read(state, prepared, config, store.model(key))
        if config.training.record_spectrum:
            start, *_ = base_models.of_run(config, dtype)
            with weights_on_every_rank(adapted.model):
                record.metrics["spectrum"] = update_spectrum.of_run(adapted.model, start)
        record.status = "finished"
    except (KeyboardInterrupt, SystemExit):  # the latter is how submitit leaves when it has queued the job again
        record.error = ranks.failure()  # a rank that fails has the others stopped
        record.status = "failed" if record.error else "interrupted"
        raise
    except Exception as error:
        record.metrics["curve"] = curve(trainer.state.log_history)
        fail(record, error, config)
    finally:
        record.provenance["finished_at"] = provenance.now()
        try:
            store.write(record)
        except StorageError:
            if (record.error or {}).get("type") != "StorageError":
                raise  # otherwise it was said already, of the same disk
        finally:
            if mirror:
                mirror.finish(record)
    if record.status == "finished" and ranks.first():
        shutil.rmtree(store.checkpoints(key), ignore_errors=True)
    return record


def fail(record: Record, error: Exception, config: RunConfig) -> None:
    """Put the reason into the record, and say it. Of several ranks the one that failed first says it."""
    own = failures.explain(error, config)
    record.status, record.error = "failed", ranks.fail(own)
    if record.error.get("rank", "0") == str(ranks.current().index):
        print(f"failed: {own['type']}: {own['message']}", file=sys.stderr)
    if Path(config.paths.results).is_absolute():  # records are shared; the folders of a machine are not
        record.error["message"] = record.error["message"].replace(str(Path(config.paths.results)), "results")
