"""Keys and tokens are hidden in everything that a run leaves behind: records, printed text, the report.

A text counts as a secret if it is the value of an environment variable whose name says so, or if it begins as only keys
do. Forty hexadecimal digits do not count: the name of a commit has forty, too.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import shlex
import sys
import urllib.parse
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO

HIDDEN = "[secret]"
NAMES = re.compile(
    r"(?:^|_)(?:\w*PASS(?:WORD|WD|PHRASE)|PASS|PAT|SECRETS?|TOKENS?|\w*API_?KEYS?|CREDENTIALS?)(?:_ID|_?\d+)?$"
    r"|_KEYS?(?:_ID|_?\d+)?$"
)
SHORTEST = 8  # characters. A shorter value of a variable occurs in harmless text, too
PREFIXES = re.compile(
    r"(?<![A-Za-z0-9_])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|wandb_v1_\w{16,}|xox[abp]-[\w-]{10,}|AKIA[A-Z0-9]{16})(?![A-Za-z0-9])"
)
IN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")  # user:password@host, and token@host


def known() -> list[str]:
    """The secrets in the environment. The longest comes first, since a secret may be a part of another secret."""
    return _known(tuple(os.environ.items()))


@functools.lru_cache(maxsize=1)  # every line that is printed asks
def _known(environment: tuple[tuple[str, str], ...]) -> list[str]:
    values = {value.strip() for name, value in environment if NAMES.search(name.upper())}
    forms = {form for value in values if len(value) >= SHORTEST for form in _forms(value)}
    return sorted(forms, key=len, reverse=True)


def _forms(value: str) -> set[str]:
    """How a secret may stand in a text: as it is, on one line, quoted, with escapes, or line by line."""
    quoted = (shlex.quote(value), repr(value)[1:-1], json.dumps(value)[1:-1], urllib.parse.quote(value, safe=""))
    lines = [line.strip() for line in value.splitlines()] if "\n" in value else []
    inner = (line for line in lines if len(line) >= SHORTEST and not line.startswith("-----"))
    return {value, " ".join(value.split()), *quoted, *inner}


def text(value: str, secrets: list[str] | None = None) -> str:
    """`value` with every secret in it hidden; `secrets` are those that are `known`, where the caller has them."""
    for secret in known() if secrets is None else secrets:
        value = value.replace(secret, HIDDEN)
    return IN_ADDRESS.sub(HIDDEN, PREFIXES.sub(HIDDEN, value))


def everything(value: Any, secrets: list[str] | None = None) -> Any:
    """A value that JSON can hold, with the secrets in its texts hidden; `secrets` as in `text`."""
    secrets = known() if secrets is None else secrets
    if isinstance(value, dict):
        return {everything(name, secrets): everything(v, secrets) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [everything(v, secrets) for v in value]
    return text(value, secrets) if isinstance(value, str) else value


def holds_secret(value: Any, secrets: list[str] | None = None) -> bool:
    """Whether any text in `value` holds a secret; `secrets` as in `text`."""
    secrets = known() if secrets is None else secrets
    if isinstance(value, dict):
        return any(holds_secret(part, secrets) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(holds_secret(part, secrets) for part in value)
    return isinstance(value, str) and text(value, secrets) != value


class _Stream:
    """A text stream that hides secrets in what is written to it, and otherwise does what `stream` does.

    Args:
        stream: The stream.
        best_effort: Whether what the stream does not take is lost without an error: a log on a full disk, for example.
    """

    def __init__(self, stream: TextIO, best_effort: bool) -> None:
        self.stream = stream
        self.lost = (OSError, ValueError) if best_effort else ()

    def write(self, written: str) -> int:
        with contextlib.suppress(*self.lost):
            self.stream.write(text(written))
        return len(written)

    def flush(self) -> None:
        with contextlib.suppress(*self.lost):
            self.stream.flush()

    def release(self) -> None:
        """Flush. What is lost may not be tried again when the process ends, where Python makes an error of it."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if not self.lost:
                raise

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def streams(*, best_effort: bool = False) -> Iterator[None]:
    """Hide secrets in all that is printed or logged inside the block, by libraries and in tracebacks, too.

    A character that the stream's encoding lacks is printed as an escape. The streams of another process are not
    changed: where this project starts a process, the first function there has such a block of its own.

    Args:
        best_effort: Whether what cannot be printed is lost without an error. A run is worth more than its log. A script
            whose output is its result must fail. Inside such a script, the work that takes hours is best effort.

    Raises:
        OSError: The standard output cannot be written, and `best_effort` is False.
    """
    sys.excepthook = _hook
    _open_closed_files()
    out, err = _Stream(_usable(sys.stdout), best_effort), _Stream(_usable(sys.stderr), True)
    # Hydra has set up logging before a job begins, so the handlers hold the streams as they were.
    handlers = [h for h in logging.root.handlers if isinstance(h, logging.StreamHandler)]
    held = [(handler, stream) for handler in handlers for stream in (out, err) if handler.stream is stream.stream]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
        for handler, stream in held:
            handler.setStream(stream)
        try:
            yield
        finally:
            for handler, stream in held:
                handler.setStream(stream.stream)
            err.release()
            out.release()


def _open_closed_files() -> None:
    """Open the null device for each of the three standard files that the caller closed: no other file takes its number.

    Otherwise a library that prints to the file 2 would print into a file of results. Processes that this process starts
    get the null device too.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is `number`


def _usable(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed when the process began
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    with streams():
        sys.__excepthook__(kind, error, trace)
