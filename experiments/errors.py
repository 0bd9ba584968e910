"""Errors that are no defect of this project: wrong settings, full disks and memories, jobs that failed elsewhere.

The message of each is one line. `one_line` makes one line of any text.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

LONGEST = 600  # characters of a message. A value that the message names may be of any length


class ConfigError(Exception):
    """A setting is wrong. The message is one line: what was wrong, where, and which values are allowed."""


class StorageError(Exception):
    """A file could not be written: the disk is full or broken. The message is one line that names the folder."""


class JobFailedError(Exception):
    """A job on a cluster failed. `code` is its exit code; the job's own output says why it failed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"a job ended with {self.code}: its output is below <results>/hydra/.submitit"


# The numbers of an OSError that a wrong path causes. Any other number means that the machine failed: a full disk, a
# quota, a broken device.
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
    """2 where a setting is wrong, 1 where the machine failed."""
    if isinstance(error, OSError):
        return 2 if error.errno in WRONG_PATH else 1
    return 1 if isinstance(error, StorageError) else 2


MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. torch raises a RuntimeError then, Python a MemoryError, the system an OSError."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in MEMORY_MESSAGES)


@contextlib.contextmanager
def refused_merges(what: str, allowed: str) -> Iterator[None]:
    """Let an error by which PEFT refuses to merge an adapter end in one line.

    Args:
        what: What PEFT cannot merge, as the start of the line.
        allowed: What the user can do.

    Raises:
        ConfigError: PEFT refuses. A lack of memory is no refusal, and keeps its error.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:  # a NotImplementedError is a RuntimeError
        if out_of_memory(error):
            raise
        raise ConfigError(f"{what}: {one_line(str(error)).rstrip('.')}; allowed: {allowed}") from error


def reason_of(error: Exception) -> str:
    """The message of an error on one line; its type where it has no message."""
    return one_line(str(error)) or type(error).__name__


def without_path(error: Exception) -> str:
    """The message of an error on one line; of an error of the system, without the path, which the caller has named."""
    return (error.strerror if isinstance(error, OSError) else None) or one_line(str(error))


def one_line(text: str) -> str:
    """`text` on one line, without control characters, and cut in the middle where it is long."""
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shortened(text, LONGEST)


def shortened(text: str, longest: int) -> str:
    """`text`, of which the middle is left out where it has more than `longest` characters."""
    gap, end = " ... ", longest // 3
    return text if len(text) <= longest else f"{text[: longest - len(gap) - end]}{gap}{text[-end:]}"
