"""Errors that are no defect of this project: wrong settings, full disks and memories, jobs that failed elsewhere.

What they say is one line: `one_line` makes it so.
"""

from __future__ import annotations

import errno

LONGEST = 600  # characters of a message: a value may be of any length


class ConfigError(Exception):
    """A setting is wrong. The message is one line: what was wrong, where, and which values are allowed."""


class StorageError(Exception):
    """A file could not be written: the disk is full, or gone. The message is one line that names the folder."""


class JobFailedError(Exception):
    """A job that was sent elsewhere did not end well; its own output says why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"a job ended with {self.code}: its output is below <results>/hydra/.submitit"


SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch says it in a RuntimeError, Python in a MemoryError, the system in a number."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def one_line(text: str) -> str:
    """`text` on one line, without control characters and of a length that a terminal shows."""
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST * 2 // 3]} ... {text[-LONGEST // 3 :]}"
