"""Keys and tokens are hidden in everything that a run leaves behind: records, printed text, the report.

A text counts as a secret if it is the value of an environment variable whose name says so, or if it begins as only keys
do. Forty hexadecimal digits do not count: the name of a commit has forty, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO

HIDDEN = "[secret]"
NAMES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
SHORTEST = 8  # characters. A shorter value of a variable occurs in harmless text, too
PREFIXES = re.compile(
    r"(?<![A-Za-z0-9_])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|wandb_v1_\w{16,}|xox[abp]-[\w-]{10,}|AKIA[A-Z0-9]{16})(?![A-Za-z0-9])"
)
IN_ADDRESS = re.compile(r"(?<=://)[^\s/@:'\"]+:[^\s/@'\"]+(?=@)")  # user:password@host


def known() -> list[str]:
    """The secrets in the environment. The longest comes first, since a secret may be a part of another secret."""
    values = {value.strip() for name, value in os.environ.items() if name.upper().endswith(NAMES)}
    return sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True)


def text(value: str) -> str:
    """`value` with every secret in it hidden."""
    for secret in known():
        value = value.replace(secret, HIDDEN)
    return IN_ADDRESS.sub(HIDDEN, PREFIXES.sub(HIDDEN, value))


def everything(value: Any) -> Any:
    """A value that JSON can hold, with the secrets in its texts hidden."""
    if isinstance(value, dict):
        return {everything(name): everything(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [everything(v) for v in value]
    return text(value) if isinstance(value, str) else value


def holds_secret(value: Any) -> bool:
    """Whether any text in `value` holds a secret."""
    if isinstance(value, dict):
        return any(holds_secret(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(map(holds_secret, value))
    return isinstance(value, str) and text(value) != value


class _Stream:
    """A text stream that hides secrets in what is written to it, and otherwise does what `stream` does."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, written: str) -> int:
        self.stream.write(text(written))
        return len(written)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """Hide secrets in all that is printed inside the block, by libraries and in tracebacks, too."""
    sys.excepthook = _hook
    out, err = sys.stdout, sys.stderr
    with contextlib.redirect_stdout(_Stream(out)), contextlib.redirect_stderr(_Stream(err)):  # type: ignore[type-var]
        yield


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    with streams():
        sys.__excepthook__(kind, error, trace)
