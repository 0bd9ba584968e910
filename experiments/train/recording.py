"""What goes on around a run: its record on the disk, its progress bar, its mirror on W&B."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, StorageError
from ..spec import ranks
from ..spec.protocol import borrowed
from ..spec.run_config import RunConfig
from ..store import failures, provenance
from ..store.records import Record, Store, curve
from ..store.wandb_mirror import WandbMirror
from ..tasks import Task, TaskData
from .callbacks import ProgressBar
from .cost import adapted_kinds, adapter_dtype
from .placement import Placement
from .trainer import RunTrainer, quiet


class Recording:
    """The record of a run, which a `with` block around the run keeps: provenance, status, error, time of the end.

    An exception of the run does not leave the block; the record holds its type and message. An interruption does leave
    the block. Before `start` a ConfigError and a StorageError leave the block too, and no record is written.
    """

    def __init__(self, config: RunConfig, record: Record, store: Store, tables: Sequence[str] = ()) -> None:
        self.config, self.record, self.store, self.tables = config, record, store, tables
        self.trainer: RunTrainer | None = None
        self.bar: ProgressBar | None = None
        self.mirror: WandbMirror | None = None

    def __enter__(self) -> Recording:
        quiet()
        self.record.provenance = provenance.describe()
        self._note("borrowed", borrowed(self.config))
        return self

    def _note(self, name: str, notes: Sequence[str]) -> None:
        """Print notes, and keep them in the record as `provenance.<name>`."""
        if notes:
            self.record.provenance[name] = list(notes)
        for note in notes if ranks.first() else ():
            print(f"note: {note}", file=sys.stderr)

    def start(
        self, trainer: RunTrainer, task: Task, prepared: TaskData, revision: str, notes: Sequence[str] = ()
    ) -> None:
        """Write the record as `running`, and let the progress bar and the mirror follow the trainer.

        Args:
            trainer: The trainer of the run.
            task: The task of the run.
            prepared: The data of the run.
            revision: What tells two versions of the base model apart.
            notes: What the record says about the adapted layers, beside their kinds.
        """
        hardware = self.config.hardware
        self._note("targets", notes)
        names = ("precision", "processes", "nodes", "sharding", "compile")
        self.record.provenance |= {
            "model_revision": revision,
            "data_fingerprint": prepared.fingerprint,
            "task_version": task.version,
            "device": Placement.of(hardware).device,
            "adapter_dtype": adapter_dtype(trainer.network),
            **({"adapted": kinds} if (kinds := adapted_kinds(trainer.network)) else {}),
            **{name: getattr(hardware, name) for name in names},
            **prepared.notes,
        }
        self.store.write(self.record)
        self.trainer = trainer
        if ranks.first():
            self.bar = ProgressBar()
            trainer.add_callback(self.bar)
            if self.config.logger.name == "wandb":
                self.mirror = WandbMirror(self.config, self.record, self.tables)
                trainer.add_callback(self.mirror)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        record = self.record
        if self.trainer is None and isinstance(error, ConfigError | StorageError | KeyboardInterrupt | SystemExit):
            return False
        if self.bar:
            self.bar.close()
        if error is None:
            record.status = "finished"
        elif isinstance(error, Exception):
            self._fail(error)
        else:  # Ctrl-C, a signal, or submitit, which leaves by SystemExit when it has queued the job again
            record.error = ranks.failure()  # the launcher interrupts every rank when one rank has failed
            record.status = "failed" if record.error else "interrupted"
        record.provenance |= {"finished_at": provenance.now(), "load": provenance.load()}
        try:
            self.store.write(record)
        except StorageError:
            if (record.error or {}).get("type") != "StorageError":
                raise  # else the user has read about this disk already
        finally:
            if self.mirror:
                self.mirror.finish(record)
        if record.status == "finished" and ranks.first():
            shutil.rmtree(self.store.checkpoints(record.key), ignore_errors=True)
        return isinstance(error, Exception)

    def _fail(self, error: Exception) -> None:
        """Write the error into the record, and print it. If several ranks fail, the first to fail prints its error."""
        own = failures.explain(error, self.config)
        self.record.status, self.record.error = "failed", ranks.fail(own)
        if self.trainer:
            self.record.metrics["curve"] = curve(self.trainer.state.log_history)
        if self.record.error.get("rank", "0") == str(ranks.current().index):
            print(f"failed: {own['type']}: {own['message']}", file=sys.stderr)
        results = Path(self.config.paths.results)
        if results.is_absolute():  # records are shared, so they do not name the folders of a machine
            self.record.error["message"] = self.record.error["message"].replace(str(results), "results")
