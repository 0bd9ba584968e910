"""Files that are whole or absent, and one clear line where the disk does not take them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import StorageError, out_of_memory

# What a wrong path gives. Any other number means that the machine failed: a full disk, a quota, a broken device.
WRONG_PATH = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    None,
}


def exit_code(error: Exception) -> int:
    """2 where a setting is to blame, 1 where the machine is."""
    if isinstance(error, OSError):
        return 2 if error.errno in WRONG_PATH else 1
    return 1 if isinstance(error, StorageError) else 2


@contextlib.contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Say in one line what went wrong while `what` was written to `folder`.

    torch and safetensors have no OSError for a full disk, so any failure of theirs counts as one of the disk.

    Raises:
        StorageError: It could not be written.
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
    """How much room is left; nothing where even that cannot be read."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return f" ({shutil.disk_usage(place).free / 1e6:,.1f} MB are free)"
    return ""


def write(path: Path, content: bytes) -> None:
    """Write to a temporary name, flush to the disk, rename: a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        sync_names(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write` a value as JSON; ValueError for what JSON does not have."""
    write(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def replace(folder: Path, final: Path) -> None:
    """Put a folder, written aside on the same disk, in the place of `final`."""
    shutil.rmtree(final, ignore_errors=True)
    os.rename(folder, final)
    sync_names(final.parent)


def sync(folder: Path) -> None:
    """Flush every file below `folder` to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_names(folder: Path) -> None:
    """Flush what stands under which name in `folder`, so that a rename outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
