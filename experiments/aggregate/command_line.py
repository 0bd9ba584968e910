"""What the scripts share: arguments, reading, and how they end (0 done, 1 stale or failed, 2 a bad argument)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from .. import paper, storage
from ..errors import ConfigError
from ..records import Record
from . import output
from .load import ResultsError, read_records


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parser(description: str | None) -> Parser:
    """A parser with --results and --scale."""
    made = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    made.add_argument(
        "--results", type=Path, default=Path("results"), help="folder that holds runs/ (default: results)"
    )
    made.add_argument("--scale", action="append", choices=paper.SCALES, help="only this scale (repeatable)")
    return made


def records(options: argparse.Namespace) -> list[Record]:
    """All readable records; the others are named on stderr."""
    found, problems = read_records(options.results)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return found


def finish(files: Mapping[Path, bytes], check: bool, whole: Path | None = None) -> int:
    """Write the files and name them, or only check them.

    Args:
        files: What the records give.
        check: Write nothing.
        whole: A folder that holds none but these files.
    """
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


def guarded(main: Callable[[], int]) -> int:
    """Run a script's main; what its user can cause is one line."""
    try:
        return main()
    except (ConfigError, ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return storage.exit_code(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 2
