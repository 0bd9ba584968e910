"""Signs of life: a running run keeps a small file, `<results>/progress/<key>.json`, which scripts/status.py reads.

The file says how far the run is and which process runs it. While the process lives, it also touches the file every few
seconds. So a reader on another host can tell a long measurement from a run whose host has died.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files, redact
from . import provenance
from .records import Record, finite

WRITE_EVERY = 2.0  # seconds between two writes of the file, at least
TOUCH_EVERY = 10.0  # seconds
# Seconds after which a run on another host counts as ended. A file system that hosts share may show an old time for a
# minute.
SILENCE = 120.0
LOADING, TRAINING, MEASURING = "loading", "training", "measuring"


@dataclass(frozen=True)
class Progress:
    """How far a run is, and which process runs it.

    Attributes:
        key: The key of the run.
        name: The name of the run.
        stage: One of LOADING, TRAINING, MEASURING.
        started_at: When the process started the run, in UTC.
        host: The name of the machine.
        pid: The process, on its machine.
        born: When the process started, in ticks since the machine started: the system gives the number of a process
            that has ended to another process. None where the system does not say it.
        user: Whose process it is.
        step: The last step that was done.
        steps: The steps of the whole run.
        loss: The loss that was logged last.
        learning_rate: The learning rate at that loss.
        seconds_left: Seconds of training that are left, if the steps to come are as fast as those before.
    """

    key: str
    name: str
    stage: str
    started_at: str
    host: str
    pid: int
    born: int | None
    user: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Sign:
    """The file of a run as a reader sees it.

    Attributes:
        progress: What the file says.
        age: Seconds since the process last wrote or touched the file.
    """

    progress: Progress
    age: float

    @property
    def alive(self) -> bool:
        """Whether the run goes on: on this host its process exists; on another host the file is not old."""
        if self.progress.host == socket.gethostname():
            return exists(self.progress.pid) and birth(self.progress.pid) == self.progress.born
        return self.age < SILENCE


def read(path: Path) -> Sign | None:
    """The sign of life in a file; None if there is no such file, or if this version cannot read it.

    Entries of other versions, such as `seconds` of an earlier one, are passed over.
    """
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
        values, known = json.loads(path.read_bytes()), {field.name for field in dataclasses.fields(Progress)}
        return Sign(Progress(**{name: value for name, value in values.items() if name in known}), age)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def alive(folder: Path) -> set[str]:
    """The keys of the runs that go on now, by the files in `folder`, which is `<results>/progress`."""
    signs = map(read, folder.glob("*.json"))
    return {sign.progress.key for sign in signs if sign and sign.alive}


class Heartbeat:
    """Keeps the file of a run up to date until `stop`. The run goes on where the disk does not take the file."""

    def __init__(self, path: Path, record: Record, steps: int) -> None:
        self.path = path
        self.progress = Progress(
            key=record.key,
            name=record.name,
            stage=LOADING,
            started_at=provenance.now(),
            host=socket.gethostname(),
            pid=os.getpid(),
            born=birth(os.getpid()),
            user=user(),
            steps=steps,
        )
        self.written = -WRITE_EVERY
        self.failures = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._touch, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the file, and touch it from now on."""
        self.beat(stage=LOADING)
        self.thread.start()

    def beat(self, **changes: Any) -> None:
        """Note `changes` of the progress. They are written at once with a new stage, else every few seconds."""
        self.progress = dataclasses.replace(self.progress, **changes)
        if "stage" in changes or time.monotonic() - self.written >= WRITE_EVERY:
            self._write()

    def stop(self) -> None:
        """Remove the file."""
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join(timeout=TOUCH_EVERY)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        self.written = time.monotonic()
        values = redact.everything(finite(dataclasses.asdict(self.progress)))
        try:
            files.write(self.path, json.dumps(values).encode())
        except OSError as error:
            self.failures += 1
            # The disk may end the run at once, whose error says so. After a second failure the run does go on.
            if self.failures == 2:
                print(f"warning: {self.path} cannot be written, and the run goes on: {error.strerror}", file=sys.stderr)

    def _touch(self) -> None:
        while not self.stopped.wait(TOUCH_EVERY):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def user() -> str:
    """The name of the user of this process, or the user's number where the system has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def exists(pid: int) -> bool:
    """Whether this host has a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def birth(pid: int) -> int | None:
    """When a process of this host started, in ticks since the host started.

    None where the system does not say it, and for a process that has ended and waits for its parent.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the fields from the third on; the second may hold spaces
    return None if state == "Z" else int(fields[18])
