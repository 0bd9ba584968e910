"""What the scripts share: arguments, records, files and exit codes (0 done, 1 stale or failed, 2 a bad argument)."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import math
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from .. import files, redact, tasks
from ..errors import ConfigError, StorageError, exit_code, one_line
from ..report import output
from ..spec import compose, methods, scales, signals
from ..spec.explanation import explain
from ..spec.run_config import LARGEST, path_text
from ..store.folder import read_records
from ..store.records import Record
from ..study import study_file
from ..study.layout import Study
from . import overrides

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, and whose help keeps the lines of the script's docstring."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        self.register("type", Path, path)  # each argument with `type=Path` has the rule, without asking for it

    def add_config_dir(self, arguments: Sequence[str] | None) -> None:
        """Add the option --config-dir, and look for configuration files there from now on.

        The choices of other options depend on these files, so the option is read before the others are added.

        Raises:
            ConfigError: There is no such folder.
        """
        text = "a folder with methods, tasks, studies and other configuration files of your own"
        self.add_argument("--config-dir", type=Path, metavar="DIR", help=text)
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        early.add_argument("--config-dir", type=path)
        with contextlib.suppress(argparse.ArgumentError):  # the whole parser says what is wrong
            if folder := early.parse_known_args(arguments)[0].config_dir:
                if not folder.is_dir():
                    raise ConfigError(f"--config-dir: {folder} is not a folder")
                compose.search([str(folder.absolute())])

    # Python 3.11 drops the second "--" too, and the argument in its place is then an empty list.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if (words := list(sys.argv[1:] if args is None else args)).count("--") > 1:
            self.error("'--' is allowed once: what follows it are not options")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)}\n")


def parser(description: str | None, arguments: Sequence[str] | None = None) -> Parser:
    """A parser with the options --config-dir, --task-module, --method-module, --results and --scale."""
    parser = Parser(description)
    parser.add_config_dir(arguments)
    add_code(parser)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder that holds runs/ (default: results)"
    )
    parser.add_argument("--scale", action="append", choices=scales.names(), help="only this scale (repeatable)")
    return parser


def add_studies(parser: argparse.ArgumentParser, *kinds: str) -> None:
    """Add the options that choose studies: --study, and --table or --figure with a number of the paper.

    Args:
        parser: The parser.
        kinds: "table" or "figure", or both.
    """
    for kind in kinds:
        numbers = [int(name.removeprefix(kind)) for name in study_file.names() if re.fullmatch(rf"{kind}\d+", name)]
        text = f"only the study {kind}N (repeatable)"
        parser.add_argument(f"--{kind}", type=int, action="append", default=[], choices=sorted(numbers), help=text)
    parser.add_argument("--study", action="append", default=[], help="only this study, or a .yaml file (repeatable)")


def studies(options: argparse.Namespace, *kinds: str) -> list[Study]:
    """The studies that the options of `add_studies` choose; those of the results folder have names too.

    Raises:
        ConfigError: There is no such study, or the study is for another scale than those of --scale.
    """
    names = [f"{kind}{number}" for kind in kinds for number in getattr(options, kind)] + options.study
    own = study_file.files_of(options.results)
    chosen = [study_file.read(own[name]) if name in own else study_file.get(name) for name in names]
    asked = [options.scale] if isinstance(options.scale, str) else options.scale or []
    for study in chosen:
        study.check_scales(asked)
    return chosen


def study_names(results: Path) -> list[str]:
    """The names that `studies` knows."""
    return list(dict.fromkeys([*study_file.files_of(results), *study_file.names()]))


def add_code(parser: Parser) -> None:
    """Give a parser the options --task-module and --method-module. The files that records name are not run."""
    for kind, run in (("task", tasks.add), ("method", methods.add)):
        text = f"the Python file of a {kind} of yours (repeatable)"
        parser.add_argument(f"--{kind}-module", type=run, action="append", metavar="FILE", help=text)


def records(folder: Path) -> list[Record]:
    """The readable records of a results folder. Prints a warning for each file that is no readable record."""
    return records_and_problems(folder)[0]


def records_and_problems(folder: Path) -> tuple[list[Record], list[str]]:
    """The readable records of a results folder, and the warnings, which are printed too."""
    records, problems = read_records(folder)
    gc.freeze()  # the records stay until the script ends, so the garbage collector need not look at them
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return records, problems


def warn_of_lost(lost: Mapping[str, str]) -> Mapping[str, str]:
    """Print a warning for each study that no run fills, with its reason. Gives the studies back."""
    for name, reason in lost.items():
        print(
            f"warning: no run fills study {name} now, so its table stays as it is: {one_line(reason)}", file=sys.stderr
        )
    return lost


def draw(arguments: list[str] | None, doc: str | None, out: Path, picture: Callable[[], bytes]) -> int:
    """Write a picture of the documentation, an SVG, to `out` or to the path that the argument OUT names."""
    parser = Parser(doc)
    parser.add_argument("out", nargs="?", metavar="OUT", type=Path, default=out)
    out = parser.parse_args(arguments).out
    import matplotlib  # here: a wrong argument is refused at once

    matplotlib.use("Agg")
    with matplotlib.rc_context({"svg.hashsalt": "mora", "svg.fonttype": "none"}):
        files.write(out, picture())
    return 0


def finish(files: Mapping[Path, bytes], check: bool, whole: Path | None = None) -> int:
    """Write the files and print their paths, or check the files on the disk. Secrets in the contents are hidden.

    Args:
        files: The content of each file, computed from the records.
        check: Write nothing; compare the files on the disk with `files`.
        whole: A folder that must hold no other files.

    Returns:
        The exit code.
    """
    files = {path: _redacted(content) for path, content in files.items()}
    if not check:
        output.write(files)
        for path in files:
            print(path)
        return 0
    problems = [f"stale: {path}" for path in output.stale(files)]
    if whole:
        problems += [f"left over, no record gives it: {path}" for path in output.left_over(files, whole)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(files)} files agree with the records")
    return 1 if problems else 0


def _redacted(content: bytes) -> bytes:
    try:
        return redact.text(content.decode()).encode()
    except UnicodeDecodeError:  # the file is a picture
        return content


def path(text: str) -> Path:
    """The type of an argument that is a path. Its rule is that of the settings that are paths."""
    try:
        return Path(path_text(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def allowed(what: str) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
    """Let the type of an argument, which raises ValueError for a wrong text, say what is allowed."""

    def with_message(read: Callable[[str], T]) -> Callable[[str], T]:
        @functools.wraps(read)
        def checked(text: str) -> T:
            try:
                return read(text)
            except ValueError:
                raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}") from None

        return checked

    return with_message


@allowed(f"a number of seeds from 1 to {study_file.MOST_SEEDS}, or different seeds such as 0,1,2")
def seeds(text: str) -> list[int]:
    """The type of an argument that says how many seeds there are, such as 3, or which, such as 0,1,2."""
    if "," not in text:
        return list(range(_integer(text, least=1, most=study_file.MOST_SEEDS)))
    return _different(text, least=0)


@allowed("different positive integers, such as 8,64")
def numbers(text: str) -> list[int]:
    """The type of an argument that lists positive numbers, such as 8,64."""
    return _different(text, least=1)


def _different(text: str, least: int) -> list[int]:
    numbers = [_integer(part, least) for part in text.split(",")]
    if len(set(numbers)) != len(numbers):
        raise ValueError(text)
    return numbers


@allowed("names with commas between them, such as loss,accuracy")
def names(text: str) -> list[str]:
    """The type of an argument that lists names, such as loss,accuracy."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise ValueError(text)
    return found


@allowed("an integer of at least 0")
def count(text: str) -> int:
    """The type of a count: an integer of at least 0."""
    return _integer(text, least=0)


@allowed("an integer of at least 1")
def positive(text: str) -> int:
    """The type of a count that is at least 1."""
    return _integer(text, least=1)


def _integer(text: str, least: int, most: int = LARGEST) -> int:
    if not least <= (number := int(text)) <= most:
        raise ValueError(text)
    return number


@allowed("a number of at least 0")
def not_negative(text: str) -> float:
    """The type of a tolerance: a finite number of at least 0."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError(text)
    return number


def check_overrides(arguments: list[str]) -> None:
    """Refuse arguments for run.py that are not settings, or that run.py would refuse before it composes.

    Raises:
        ConfigError: An argument is refused.
        HydraException: An argument cannot be read.
    """
    for argument in arguments:
        if "=" not in argument or argument.startswith("-"):
            raise ConfigError(f"{argument!r} is not name=value")
    overrides.check(arguments)


@redact.streams()
def guarded(main: Callable[[], int]) -> int:
    """Run a script's main function. A user's mistake ends in one line and exit code 2, a full disk in exit code 1.

    A signal that stops a run ends the script as Ctrl-C does: what the script has half written is removed.
    """
    try:
        with signals.handled_by(signal.default_int_handler):
            code = main()
            sys.stdout.flush()
        return code
    except ConfigError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error, [])}", file=sys.stderr)
    except StorageError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return exit_code(error)
    except OSError as error:
        where = error.filename or "cannot write"  # a failed write to a stream or an open file names no file
        print(f"error: {one_line(f'{where}: {error.strerror or error}')}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 2
