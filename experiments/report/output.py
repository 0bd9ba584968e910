"""Writing generated files, and checking that the files on disk are what the records give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from .. import files as disk
from ..errors import ConfigError

Files = dict[Path, bytes]


def write(files: Mapping[Path, bytes]) -> None:
    """Write each file whole, so that a reader never sees half a file. Skip a file that has its content already."""
    for path, content in files.items():
        if not path.is_file() or path.read_bytes() != content:
            disk.write(path, content)


def between_marks(path: Path, contents: Mapping[str, str]) -> bytes:
    """The text of `path` with each content between the lines `<!-- name: ... -->` and `<!-- end of name -->`.

    Raises:
        ConfigError: The file is no text, or has no such two lines for one of the names.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    for name, content in contents.items():
        first, last = re.escape(f"<!-- {name}: "), re.escape(f"<!-- end of {name} -->")
        marks = re.compile(rf"(^{first}[^\n]* -->\n).*?(^{last}$)", re.DOTALL | re.MULTILINE)
        text, count = marks.subn(partial(_filled, content), text)
        if count != 1:
            raise ConfigError(
                f"{path} must hold one line `<!-- {name}: ... -->` and one `<!-- end of {name} -->` below it"
            )
    return text.encode()


def _filled(content: str, marks: re.Match[str]) -> str:
    return f"{marks[1]}{content}{marks[2]}"


def stale(files: Mapping[Path, bytes]) -> list[Path]:
    """The files that are missing on disk, or have another content there."""
    return [path for path, content in files.items() if not path.is_file() or path.read_bytes() != content]


def left_over(files: Mapping[Path, bytes], folder: Path) -> list[Path]:
    """The files below `folder` that are not among `files`, such as the tables of a scale without records."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in files)
