"""The state of each run of a results folder now: from the records, and from the signs of life of running processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import heartbeats
from .folder import read_records
from .records import Record, Store, from_file

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"


@dataclass(frozen=True)
class RunState:
    """A run as it is now.

    Attributes:
        key: The key of the run.
        name: The name of the run.
        state: RUNNING, FINISHED, FAILED or INTERRUPTED. A record that says `running` and whose process is gone counts
            as INTERRUPTED.
        record: The record; None before the run has written its first.
        sign: What the process of the run wrote last; None if there is no such file.
        age: Seconds since the run last wrote something.
    """

    key: str
    name: str
    state: str
    record: Record | None
    sign: heartbeats.Sign | None
    age: float


class Overview:
    """Reads a results folder again and again. A record whose file did not change is read once."""

    def __init__(self, results: Path) -> None:
        self.store = Store(results)
        self.cache: dict[Path, tuple[tuple[int, int], Record]] = {}

    def read(self) -> tuple[list[RunState], list[str]]:
        """The state of each run, and one line for each file that is not a record.

        Raises:
            ConfigError: The results folder cannot be read.
        """
        records, problems = read_records(self.store.results, self._record)
        signs = {p.stem: sign for p in self.store.progress_folder.glob("*.json") if (sign := heartbeats.read(p))}
        states = [self._state(record, signs.pop(record.key, None)) for record in records]
        states += [_state_without_record(sign) for sign in signs.values()]
        return states, problems

    def _record(self, path: Path) -> Record:
        stat = path.stat()
        stamp = stat.st_mtime_ns, stat.st_size
        if path not in self.cache or self.cache[path][0] != stamp:
            self.cache[path] = stamp, from_file(path)
        return self.cache[path][1]

    def _state(self, record: Record, sign: heartbeats.Sign | None) -> RunState:
        state = INTERRUPTED
        if record.status == FINISHED:  # the process that has just finished may still have its sign of life
            state = FINISHED
        elif sign and sign.alive:  # the record may be that of an earlier failure
            state = RUNNING
        elif record.status == FAILED:
            state = FAILED
        age = sign.age if sign else 0.0
        with contextlib.suppress(OSError):
            written = max(0.0, time.time() - self.store.path(record.key).stat().st_mtime)
            age = min(age, written) if sign else written
        return RunState(record.key, record.name, state, record, sign, age)


def _state_without_record(sign: heartbeats.Sign) -> RunState:
    progress = sign.progress
    return RunState(progress.key, progress.name, RUNNING if sign.alive else INTERRUPTED, None, sign, sign.age)


def missing(cells: Sequence[tuple[str, str]], states: Sequence[RunState]) -> list[tuple[str, str]]:
    """The cells, each a name and a key, of which no run has left anything."""
    keys = {state.key for state in states}
    return [(name, key) for name, key in cells if key not in keys]
