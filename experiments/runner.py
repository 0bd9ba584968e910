"""One run, from a configuration to its record."""

from __future__ import annotations

import contextlib
import functools
import math
from pathlib import Path
from typing import Any

from . import files, tasks
from .data import userfile
from .errors import ConfigError
from .identity import cell_of, identity_of, key_of, name_of
from .measure import benchmarks
from .spec import methods, ranks
from .spec.run_config import RunConfig
from .store.records import Record, Store, curve
from .store.schema import is_number
from .study.printed import tables_of
from .tasks import Task


def run(config: RunConfig) -> Record:
    """Run the cell that `config` describes, unless a record says that the cell is finished.

    An interrupted cell continues from its last checkpoint. The record is written when the training starts (`running`)
    and when the run ends (`finished`, `failed`, `interrupted`). Every rank that torchrun or srun started calls this
    function. If the configuration asks for several ranks and no launcher started them, this process starts them.

    Raises:
        ConfigError: The configuration does not fit the model or the machine; the run leaves no record.
        StorageError: The record cannot be written to the disk.
    """
    if ranks.from_launcher():
        ranks.join(config.hardware.device)
        config = ranks.broadcast(config)
    tasks.of(config).check(config)
    # The files of rank 0 count: they may change while other ranks start.
    store, identity = Store(config.paths.results), ranks.broadcast(identity_of(config))
    key = key_of(identity)
    # Read before the claim as well: a finished cell is then recognised in a folder where nothing can be written.
    if previous := finished(ranks.broadcast(store.read(key, quietly=True)), store):
        return previous
    with store.claim(key) if ranks.first() else contextlib.nullcontext():
        unfinished = ranks.broadcast(store.read(key, quietly=not ranks.first()))
        if previous := finished(unfinished, store):
            return previous
        if unfinished is None and ranks.first():
            store.set_aside(key)
        record = record_of(config, identity)
        if (
            unfinished
            and config.method.trains
            and ranks.first()
            and not any(store.checkpoints(key).glob("checkpoint-*"))
        ):
            print(
                f"{record.name}: the earlier try ({unfinished.status}) left no checkpoint, so the training begins anew"
            )
        if config.hardware.distributed and not ranks.from_launcher():
            from .train import spawn

            return spawn.run(execute, config, record, store)
        return execute(config, record, store)


def record_of(config: RunConfig, identity: dict[str, Any]) -> Record:
    """The record of a run that has not started."""
    name = name_of(config, identity)
    return Record(key_of(identity), name, "running", cell_of(config), config.for_record(), identity)


def finished(record: Record | None, store: Store) -> Record | None:
    """The record if its run is finished; else None. Says so, and removes what a kill after the last record has left."""
    if record is None or record.status != "finished":
        return None
    if ranks.first():
        files.remove(store.checkpoints(record.key))
        print(f"{record.name}: finished before, at {record.provenance.get('finished_at')}")
    return record


def check_same(config: RunConfig, record: Record, revision: str) -> None:
    """Refuse a folder or a Python file that has changed between the hash in the run's key and the loading.

    Raises:
        ConfigError: A hash, taken after the loading, is not the hash in the key.
    """
    task, method, identity = config.task, config.method, record.identity
    # For each rank that this project starts, a module is loaded again.
    loaded = [
        (f"task.module: {task.module}", tasks.module_hash(task.name), identity["task"].get("module")),
        (
            f"method.module: {method.module}",
            methods.module_hash((method.peft or {}).get("peft_type")),
            identity["method"].get("module"),
        ),
    ]
    # The key of a run on a copy has the id of the model in place of a hash.
    if Path(config.model).is_dir() and not config.model_id:
        loaded.append((f"model: {config.model}", revision, identity["model"]))
    if task.benchmark_path and "benchmarks" in identity:
        now = benchmarks.folder_fingerprint(task.benchmark_path)
        loaded.append((f"task.benchmark_path: {task.benchmark_path}", now, identity["benchmarks"]))
    for what, found, expected in loaded:
        if found != expected:
            raise ConfigError(
                f"{what} has changed since this run began: its content is not the content in the key of the run; "
                "give the command again"
            )


def check_final(task: Task, final: dict[str, float], step: int) -> None:
    """Refuse final metrics that are not finite, or that lack what the task is judged by.

    The last update may have diverged, and no loss follows it.

    Raises:
        FloatingPointError: The first metric that is not finite.
        ValueError: A metric beside the headline and the selection is NaN. An F1 of no case has no value, for example.
        LookupError: The task gave no headline, or not the number by which its learning rates are selected.
    """
    absent = [] if any(name in final for name in task.headlines) else [task.headline]
    if task.selection and task.selection not in final:
        absent.append(task.selection)
    if absent:
        names = " and no ".join(dict.fromkeys(absent))
        what = "the task declares it as its headline or its selection"
        raise LookupError(f"task={task.name}: evaluate returned no {names}; {what}")
    decisive = {*task.headlines, task.selection}
    for name, value in sorted(final.items(), key=lambda item: item[0] not in decisive):
        if math.isnan(value) and name not in decisive:
            raise ValueError(f"task={task.name}: {name} is {value}; evaluate must leave out a metric that has no value")
        if not is_number(value):
            raise FloatingPointError(f"diverged at step {step}: {name} is {value}")


def execute(config: RunConfig, record: Record, store: Store) -> Record:
    """Load, prepare, adapt, train, measure, save. Every rank calls this function; the caller holds the cell's claim."""
    from transformers import set_seed

    from .measure import update_spectrum
    from .measure.evaluation import weights_on_every_rank
    from .train import adapt, base_models, cost, fit
    from .train import trainer as training
    from .train.placement import base_dtype, prepare_device
    from .train.recording import Recording

    task, trains = tasks.of(config), config.method.trains
    tables = tables_of(record.identity) if config.logger.name == "wandb" else ()
    with Recording(config, record, store, tables) as recording:
        placement = prepare_device(config)
        shape = fit.model(config)
        dtype = base_dtype(config, placement)
        with ranks.one_first(), userfile.unchanged(config.task, record.identity):
            # The weights come last: data that are missing end the run before minutes of loading.
            tokenizer = base_models.tokenizer_of_run(config)
            fit.tokenizer(config, tokenizer, shape)
            prepared = task.prepare(config, tokenizer)
            fit.data(config, prepared, tokenizer, shape)
            network, _, revision = base_models.of_run(config, dtype, placement.device, tokenizer)
            check_same(config, record, revision)
        set_seed(config.seed)  # adapters may start at random
        adapted = adapt.adapt(network, config)
        model = adapted.model
        if config.training.record_spectrum:
            update_spectrum.check(model)
        meter = cost.Meter(adapted, placement)
        folder = store.checkpoints(record.key)
        measure = functools.partial(tasks.measured, task.measure, model, tokenizer, prepared)
        trainer = training.build(adapted, prepared.train, measure, config, placement, folder)
        recording.start(trainer, task, prepared, revision, adapted.notes)

        final: dict[str, float] = {}
        if trains:
            final |= tasks.measured(task.baseline, model, tokenizer, prepared)
            training.train(trainer)
        final |= tasks.measured(task.evaluate, model, tokenizer, prepared)
        check_final(task, final, trainer.state.global_step)
        record.metrics = {"final": final, "curve": curve(trainer.state.log_history)}
        if trains:
            training.save(trainer, store.model(record.key))
        record.cost = meter.read(trainer.state, prepared, config, store.model(record.key))
        if config.training.record_spectrum:
            base = base_models.of_run(config, dtype, tokenizer=tokenizer).network
            with weights_on_every_rank(model):
                record.metrics["spectrum"] = update_spectrum.of_run(model, base)
    return record
