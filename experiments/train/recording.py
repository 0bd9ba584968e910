"""What goes on around a run: its record on the disk, its progress bar and progress file, its mirror on W&B."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError, StorageError
from ..spec import ranks, signals
from ..spec.protocol import borrowed
from ..spec.run_config import RunConfig
from ..store import failures, provenance
from ..store.heartbeats import MEASURING, Heartbeat
from ..store.records import Record, Store, curve
from ..store.wandb_mirror import WandbMirror
from ..tasks import Task, TaskData
from .callbacks import ProgressBar, ProgressFile
from .cost import adapted_kinds, adapter_dtype
from .placement import Placement
from .trainer import RunTrainer, quiet


class Recording:
    """The record of a run, which a `with` block around the run keeps: provenance, status, error, time of the end.

    An exception of the run does not leave the block; the record holds its type and message. An interruption does leave
    the block. Before `start` a ConfigError and a StorageError leave the block too, and no record is written.
    The traceback of a failed run goes to a file, which is removed when the run finishes later.
    """

    def __init__(self, config: RunConfig, record: Record, store: Store, tables: Sequence[str] = ()) -> None:
        self.config, self.record, self.store, self.tables = config, record, store, tables
        self.trainer: RunTrainer | None = None
        self.heartbeat: Heartbeat | None = None
        self.bar: ProgressBar | None = None
        self.mirror: WandbMirror | None = None

    def __enter__(self) -> Recording:
        quiet()
        self.record.provenance = provenance.describe()
        self._note("borrowed", borrowed(self.config))
        if ranks.first():
            steps = self.config.training.steps if self.config.method.trains else 0
            self.heartbeat = Heartbeat(self.store.progress(self.record.key), self.record, steps)
            self.heartbeat.start()
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
        """Write the record as `running`. The progress bar, the progress file and the mirror follow the trainer.

        Args:
            trainer: The trainer of the run.
            task: The task of the run.
            prepared: The data of the run.
            revision: What tells two versions of the base model apart.
            notes: What the record says about the adapted layers, beside their kinds.
        """
        import torch

        hardware = self.config.hardware
        self._note("targets", notes)
        names = ("precision", "processes", "nodes", "sharding", "compile")
        self.record.provenance |= {
            "model_revision": revision,
            **({"model_copy_of": self.config.model_id} if self.config.model_id else {}),
            "data_fingerprint": prepared.fingerprint,
            "task_version": task.version,
            # The settings of the run change the number of threads after `provenance.describe`.
            "hardware": {**self.record.provenance["hardware"], "threads": torch.get_num_threads()},
            "device": Placement.of(hardware).device,
            "adapter_dtype": adapter_dtype(trainer.network),
            **({"adapted": kinds} if (kinds := adapted_kinds(trainer.network)) else {}),
            **{name: getattr(hardware, name) for name in names},
            **prepared.notes,
        }
        self.store.write(self.record)
        self.trainer = trainer
        if self.heartbeat:
            self.heartbeat.beat(stage=MEASURING)
            trainer.add_callback(ProgressFile(self.heartbeat))
            self.bar = ProgressBar()
            trainer.add_callback(self.bar)
            if self.config.logger.name == "wandb":
                self.mirror = WandbMirror(self.config, self.record, self.tables)
                trainer.add_callback(self.mirror)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        try:
            return self._end(error)
        finally:
            if self.heartbeat:
                self.heartbeat.stop()

    def _end(self, error: BaseException | None) -> bool:
        """Write the record for the last time. Gives whether the error stays within the block."""
        if self.trainer is None and isinstance(error, ConfigError | StorageError | KeyboardInterrupt | SystemExit):
            return False
        try:
            with signals.deferred():  # a signal during the last write must not leave a record that says `running`
                self._close(error)
        finally:
            if self.mirror:
                self.mirror.finish(self.record)
        return isinstance(error, Exception)

    def _close(self, error: BaseException | None) -> None:
        """Write the record for the last time, and remove what a finished run does not need."""
        record = self.record
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
        if record.status == "finished" and ranks.first():
            files.remove(self.store.checkpoints(record.key))
            with contextlib.suppress(OSError):
                self.store.failure(record.key).unlink(missing_ok=True)

    def _fail(self, error: Exception) -> None:
        """Write the error into the record, and print it. If several ranks fail, the first to fail prints its error."""
        record, own = self.record, failures.explain(error, self.config)
        path = self.store.failure(record.key)
        if not isinstance(error, ConfigError):  # the message of a ConfigError says all
            own["traceback"] = f"{path.parent.name}/{path.name}"  # within the results folder
        record.status, record.error = "failed", ranks.fail(own)
        if self.trainer:
            record.metrics["curve"] = curve(self.trainer.state.log_history)
        if record.error.get("rank", "0") == str(ranks.current().index):
            where = self._write_traceback(path, error) if "traceback" in own else ""
            print(f"failed: {own['type']}: {own['message']}{where}", file=sys.stderr)
        results = Path(self.config.paths.results)
        if results.is_absolute():  # records are shared, so they do not name the folders of a machine
            record.error["message"] = record.error["message"].replace(str(results), "results")

    def _write_traceback(self, path: Path, error: Exception) -> str:
        """Write the traceback, and give the end of the printed line, which says where the traceback is."""
        title = f"{self.record.name} ({self.record.key}) failed at {provenance.now()}"
        if failures.write_traceback(path, title, error):
            return f"; traceback: {path}"
        assert self.record.error
        self.record.error.pop("traceback", None)
        return "; its traceback cannot be written"
