"""Records: each run leaves one JSON file, whose name is the run's key.

The key is a hash of everything that can change the result, and of nothing else. The output folder, the logger, the path
of a model folder, the distance between checkpoints and the device are not part of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import files, redact
from ..errors import ConfigError, StorageError, exit_code, one_line
from ..identity import cell_key_of
from ..spec import ranks
from . import schema

LARGEST_FILE = 64 << 20  # bytes; a larger file is no record, and is not read


@dataclass
class Record:
    """What a run leaves behind; `schema` says what each section holds."""

    key: str
    name: str
    status: str  # running, finished, failed or interrupted
    cell: dict[str, Any]
    config: dict[str, Any]
    identity: dict[str, Any]  # the settings whose hash is the key
    metrics: dict[str, Any] = field(default_factory=lambda: {"final": {}, "curve": []})
    cost: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    schema: int = schema.VERSION

    @cached_property
    def cell_key(self) -> str:
        """The key of what the runs of the record's cell share."""
        return cell_key_of(self.identity)


def finite(value: Any) -> Any:
    """`value` as a record may hold it.

    None stands in place of every number that is not finite or larger than a record may hold. An escape stands in place
    of half a character, such as the path of a file may have, and of a control character.
    """
    if isinstance(value, dict):
        return {finite(name): finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, str):
        whole = value.encode("utf-8", "backslashreplace").decode()
        return schema.CONTROL.sub(lambda match: ascii(match[0])[1:-1], whole)
    return None if isinstance(value, float) and not schema.is_number(value) else value


def from_json(text: bytes) -> Record:
    """The record that a file holds, checked as `schema` says.

    Raises:
        ValueError: The file holds no record, or a record of another schema.
    """
    return Record(**schema.checked(text))


def from_file(path: Path) -> Record:
    """The record in a file.

    Raises:
        OSError: The disk does not give the file.
        ValueError: The file holds no record of this version.
    """
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST_FILE:
            raise ValueError(f"it has {size:,} bytes, and a record has at most {LARGEST_FILE:,}")
        return from_json(file.read())


class Store:
    """The records, checkpoints and trained models below the folder `results`."""

    def __init__(self, results: str | Path) -> None:
        self.results = Path(results)

    def path(self, key: str) -> Path:
        """The record of the run with this key."""
        return self.results / "runs" / f"{key}.json"

    def failure(self, key: str) -> Path:
        """The traceback of the run with this key, if the run has failed."""
        return self.results / "failures" / f"{key}.txt"

    @property
    def progress_folder(self) -> Path:
        """The folder of what `progress` names."""
        return self.results / "progress"

    def progress(self, key: str) -> Path:
        """How far the run with this key is, while the run goes on."""
        return self.progress_folder / f"{key}.json"

    def checkpoints(self, key: str) -> Path:
        """The folder of the checkpoints of the run with this key."""
        return self.results / "checkpoints" / key

    def model(self, key: str) -> Path:
        """The folder of the trained model of the run with this key."""
        return self.results / "models" / key

    def record(self, key: str) -> Record:
        """The record with this key.

        Raises:
            OSError: There is no record, or the disk does not give it.
            ValueError: This version cannot read the record.
        """
        record = from_file(self.path(key))
        if record.key != key:
            raise ValueError(f"it holds the key of {record.key}.json")
        return record

    def read(self, key: str, *, quietly: bool = False) -> Record | None:
        """The record with this key; None if there is no record, or if this version cannot read the record.

        Raises:
            OSError: The record exists, but the disk fails to read it. With None, the run would start again.
        """
        try:
            return self.record(key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            if not quietly:
                print(f"warning: {self.path(key)} is not a readable record ({error}); it is ignored", file=sys.stderr)
            return None

    def set_aside(self, key: str) -> None:
        """Rename the file of a record that could not be read: a newer version may have written this file."""
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path(key), self.path(key).with_suffix(".unreadable"))

    def write(self, record: Record) -> Path:
        """Write a record. Numbers that are not finite become null; keys and tokens are hidden. Only rank 0 writes.

        Raises:
            StorageError: The record cannot be written. An earlier record of the run is unchanged.
        """
        path = self.path(record.key)
        if ranks.first():
            with files.writing("the record", path.parent):
                files.write_json(path, finite(redact.everything(dataclasses.asdict(record))))
        return path

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold the lock of the cell `key`: only its holder runs the cell. Waits while another process holds the lock.

        Raises:
            ConfigError: The results folder cannot be written, or its file system has no locks.
            StorageError: The disk is full.
        """
        path, runs = self.results / "locks" / key, self.path(key).parent
        lock = files.lock(path)
        try:
            for folder in (path.parent, runs):
                folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except TimeoutError:
                owner = path.read_text(errors="replace", encoding="utf-8") or "another process"
                print(f"cell {key} is being run by {one_line(owner)}; waiting", file=sys.stderr)
                lock.acquire()
        except OSError as error:
            if error.filename is None:
                raise ConfigError(f"paths.results: cannot lock a file in {path.parent}: {error.strerror}") from None
            message = f"cannot write to {error.filename}: {error.strerror}"
            if exit_code(error) == 1:
                raise StorageError(message) from None
            raise ConfigError(f"paths.results: {message}") from None
        try:
            for written in (self.path(key), self.failure(key), self.progress(key)):
                for temporary in written.parent.glob(f".{written.name}.*.tmp"):  # from a process that was killed
                    temporary.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the disk may be full, and the run does not need the owner's name
                path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            lock.release()


def curve(log: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The Trainer's log with one row for each step, without times and totals."""
    rows: dict[int, dict[str, float]] = {}
    for entry in log:
        if "train_runtime" not in entry:
            values = {k: v for k, v in entry.items() if k not in ("seconds", "peak_memory_bytes", "epoch", "step")}
            rows.setdefault(entry["step"], {"step": entry["step"]}).update(values)
    return [row for _, row in sorted(rows.items()) if len(row) > 1]
