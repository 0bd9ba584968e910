"""What the scripts share: arguments, reading, and how they end (0 done, 1 stale or failed, 2 a bad argument)."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from .. import redact, tasks
from ..errors import ConfigError, one_line
from ..report import output
from ..spec import scales
from ..spec.compose import CONF
from ..spec.run_config import LARGEST
from ..store import storage
from ..store.folder import ResultsError, read_records
from ..store.records import Record
from .explain import explain

TASKS = tasks.NAMES


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)}\n")


def parser(description: str | None) -> Parser:
    """A parser with --results and --scale."""
    made = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    made.add_argument(
        "--results", type=Path, default=Path("results"), help="folder that holds runs/ (default: results)"
    )
    made.add_argument("--scale", action="append", choices=scales.names(), help="only this scale (repeatable)")
    return made


def records(options: argparse.Namespace) -> list[Record]:
    """All readable records; the others are named on stderr."""
    found, problems = read_records(options.results)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return found


def finish(files: Mapping[Path, bytes], check: bool, whole: Path | None = None) -> int:
    """Write the files and name them, or only check them. What looks like a key or a token in a record is hidden.

    Args:
        files: What the records give.
        check: Write nothing.
        whole: A folder that holds none but these files.
    """
    files = {path: _redacted(content) for path, content in files.items()}
    if not check:
        output.write(files)
        for path in files:
            print(path)
        return 0
    stale, left_over = output.stale(files), output.left_over(files, whole) if whole else []
    for path in stale:
        print(f"stale: {path}", file=sys.stderr)
    for path in left_over:
        print(f"left over, no record gives it: {path}", file=sys.stderr)
    if not stale and not left_over:
        print(f"{len(files)} files are what the records give")
        return 0
    return 1


def _redacted(content: bytes) -> bytes:
    try:
        return redact.text(content.decode()).encode()
    except UnicodeDecodeError:  # a picture
        return content


def seeds(text: str) -> list[int]:
    """The type of a list of seeds, such as 0,1,2."""
    found = [int(part) for part in text.split(",")]
    if len(set(found)) != len(found) or min(found) < 0 or max(found) > LARGEST:
        raise ValueError(text)
    return found


def check_overrides(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Refuse what run.py would refuse before it composes."""
    from hydra.errors import HydraException

    from . import overrides

    if wrong := [a for a in arguments if "=" not in a]:
        parser.error(f"{wrong[0]!r} is not name=value")
    try:
        overrides.check(arguments, CONF)
    except (ConfigError, HydraException) as error:
        parser.error(explain(error, arguments, CONF))


def not_negative(text: str) -> float:
    """The type of a tolerance. nan would be smaller than nothing, and inf would accept everything."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError(text)
    return number


@redact.streams()
def guarded(main: Callable[[], int]) -> int:
    """Run a script's main; what its user can cause is one line."""
    try:
        return main()
    except (ConfigError, ResultsError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
    except OSError as error:
        print(f"error: {one_line(f'{error.filename}: {error.strerror}')}", file=sys.stderr)
        return storage.exit_code(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 2
