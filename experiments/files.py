"""Files and folders that appear whole or not at all, and one clear line where the disk does not take them.

What is written goes to a temporary name first, is flushed to the disk, and is then renamed. So a reader sees the whole
old file or the whole new file, also after a power cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StorageError, out_of_memory

if TYPE_CHECKING:
    from filelock import BaseFileLock


UMASK = os.umask(0o022)  # the system tells the mask only when it is set
os.umask(UMASK)


def lock(path: Path) -> BaseFileLock:
    """A lock between processes, held on the file `path`. The system frees it when its process dies.

    The file stays when the lock is free: if it were removed, two processes could hold "the same" lock on two files.
    Acquiring the lock raises OSError where the file cannot be written, or where its file system has no locks.
    """
    from filelock import FileLock  # here: a finished cell needs no lock

    return FileLock(path, fallback_to_soft=False)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends without an error, that file replaces `path`.

    Raises:
        OSError: The file could not be written. What stood at `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o666 & ~UMASK)  # mkstemp lets the owner alone read the file
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write(path: Path, content: bytes) -> None:
    """Write a file whole, and the folders above it.

    Raises:
        OSError: The file could not be written. What stood at `path` is unchanged.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """`write` a value as JSON.

    Raises:
        OSError: The file could not be written. What stood at `path` is unchanged.
        ValueError: JSON cannot hold the value: it is not finite, for example.
    """
    write(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def write_summed(path: Path, value: Any) -> None:
    """`write_json` a value with its sum, so that `read_summed` never gives another value.

    Raises:
        OSError: The file could not be written. What stood at `path` is unchanged.
    """
    write_json(path, {"sha256": _sum(value), "value": value})


def read_summed(path: Path) -> Any:
    """The value that `write_summed` wrote; None where there is no such file, or where the file is damaged."""
    try:
        content = json.loads(path.read_bytes())
        return content["value"] if content["sha256"] == _sum(content["value"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to write to; when the block ends without an error, that folder becomes `path`.

    One process at a time may do so for a `path`.

    Raises:
        OSError: The folder could not be written, or `path` exists and is not an empty folder. `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.incomplete")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        flush_all(temporary)
        os.rename(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """The sum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_sums: dict[str, list[Any]] = {}  # path -> its state (see `_state`) and its sum, for this process
SETTLED = 2.0  # seconds. A file that is younger may change again without a change of its times


def sums(paths: Iterable[Path], memory: Path | None = None) -> dict[Path, str]:
    """The sums of several files. A sum is computed anew only if the size or a time of the file has changed.

    Args:
        paths: The files.
        memory: A JSON file that keeps the sums for later processes; None, or a file that cannot be written: only this
            process remembers them.

    Raises:
        OSError: A file cannot be read.
    """
    remembered = (read_summed(memory) if memory else None) or {}
    known = _sums | remembered
    computed: dict[str, list[Any]] = {}
    for path in paths:
        name, state = str(path.absolute()), _state(path)
        entry = known.get(name)
        if not (isinstance(entry, list) and entry[:-1] == state and isinstance(entry[-1], str)):
            entry = [*state, sha256(path)]
        computed[name] = entry
    settled = {name: entry for name, entry in computed.items() if time.time() - max(entry[1:3]) / 1e9 > SETTLED}
    _sums.update(settled)
    if memory and any(remembered.get(name) != entry for name, entry in settled.items()):
        with contextlib.suppress(OSError):  # the sums are computed again next time
            write_summed(memory, settled)
    return {Path(name): entry[-1] for name, entry in computed.items()}


def _state(path: Path) -> list[Any]:
    """What changes when a file changes: size, times in nanoseconds, and number on the disk."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def remove(folder: Path) -> None:
    """Remove a folder, as far as the disk allows. If the process is killed, `folder` is there whole or not at all.

    What a killed process has left is removed by the next call for the same folder.
    """
    removed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    if folder.is_dir():
        with contextlib.suppress(OSError):  # the disk is read-only, or another process was faster
            os.rename(folder, removed)
            shutil.rmtree(removed, ignore_errors=True)


def replace(folder: Path, final: Path) -> None:
    """Remove `final` and rename `folder`, which lies on the same disk and is flushed, to it."""
    remove(final)
    os.rename(folder, final)
    flush(final.parent)


def flush_all(folder: Path) -> None:
    """Flush a folder and everything below it to the disk."""
    for path in (folder, *folder.rglob("*")):
        flush(path)


def flush(path: Path) -> None:
    """Flush to the disk: of a file the content, of a folder the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Say in one line what went wrong while `what` was written to `folder`.

    torch and safetensors raise no OSError for a full disk. So every error of these two counts as an error of the disk.

    Raises:
        StorageError: The disk did not take it.
    """
    try:
        yield
    except Exception as error:
        if out_of_memory(error) or not _of_the_disk(error):
            raise
        raise StorageError(f"cannot write {what} to {folder}: {_reason(error)}{_free(folder)}") from error


def _of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def _free(folder: Path) -> str:
    """How much room the disk has left; empty where the disk does not even say that."""
    for existing in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return f" ({shutil.disk_usage(existing).free / 1e6:,.1f} MB are free)"
    return ""
