"""The parts of the GPU check. Each part runs in a process of its own, because an error on a GPU can break a process."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.errors import reason_of

from .card_file import DONE, FAILED, RUNNING, STOPPED, CardFile
from .device import Device

Row = dict[str, Any]
Emit = Callable[[Row], None]
GRACE = 60.0  # seconds that a part has to end after its time is up: a training run then writes a checkpoint


@dataclass(frozen=True)
class CheckPart:
    """A part of the check.

    Attributes:
        module: The module of this package whose function `measure(device, emit, results, **options)` does the work.
        share: The longest time of the part, as a share of the time of the check.
        options: Further arguments of `measure`.
    """

    module: str
    share: float
    options: dict[str, Any] = field(default_factory=dict)


PARTS = {
    "tests": CheckPart("marked_tests", 1 / 3),
    "layer-4096x4096": CheckPart("layer_times", 1 / 6, {"shape": (4096, 4096)}),
    "layer-4096x11008": CheckPart("layer_times", 1 / 6, {"shape": (4096, 11008)}),
    "step": CheckPart("step_times", 1 / 6),
    "table2": CheckPart("study_runs", 1.0),  # the last part: the part gets the time that is left
}


def run_all(
    names: Sequence[str],
    open_file: Callable[[], CardFile],
    seconds: float,
    start: Callable[[str, float], int],
    say: Callable[[str], None],
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Run the parts that are not done, one after another. A part that fails does not stop the others.

    Args:
        names: The parts, in their order.
        open_file: Reads the results file, which the process of a part writes.
        seconds: The time of all parts together. Each part gets at most what is left.
        start: Runs a part for at most so many seconds, and gives its exit code.
        say: Where a line goes for each part.
        now: The clock, in seconds.

    Returns:
        0, or 1 if a part failed.
    """
    end = now() + seconds - GRACE
    for name in names:
        if open_file().status(name) == DONE:
            say(f"{name}: done before")
            continue
        started = now()
        left = min(end - started, PARTS[name].share * seconds)
        if left <= 0:
            open_file().end(name, STOPPED, "no time was left; the same command continues")
        else:
            say(f"{name}: at most {left:.0f} s")
            code = start(name, left)
            file = open_file()
            if file.status(name) in (None, RUNNING):  # the process could not write its end
                late = now() >= started + left
                ended = f"the process of this part ended with code {code}"
                file.end(name, *((STOPPED, "the time of this part was up") if late else (FAILED, ended)))
        part = open_file().parts[name]
        say(f"{name}: {part['status']}{': ' if part['reason'] else ''}{part['reason']}")
    return int(any(open_file().status(name) == FAILED for name in names))


def start_process(command: Sequence[str], seconds: float, grace: float = GRACE) -> int:
    """Run a command and give its exit code. After so many seconds the command gets SIGINT, and later SIGKILL.

    Raises:
        KeyboardInterrupt: The user interrupted the check. The command has ended.
    """
    with subprocess.Popen(command, start_new_session=True) as process:
        interrupted = False
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            interrupted = True
        process.send_signal(signal.SIGINT)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode


def run_part(name: str, device: Device, results: Path, say: Callable[[str], None]) -> int:
    """Run one part in this process, and write its rows and its end to the results file. Gives the exit code."""
    from experiments.store import provenance

    file, part = CardFile(results / "gpu", device.card), PARTS[name]
    file.begin(name, provenance.describe())

    def emit(row: Row) -> None:
        file.add(name, row)
        say(f"  {line(row)}")

    try:
        measure = importlib.import_module(f"scripts.gpu.{part.module}").measure
        measure(device, emit, results, **part.options)
    except KeyboardInterrupt:
        file.end(name, STOPPED, "stopped before its end; the same command continues")
        return 130
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        file.end(name, FAILED, reason_of(error))
        return 1
    if errors := file.errors(name):
        file.end(name, FAILED, f"{len(errors)} of {len(file.parts[name]['rows'])} rows failed: {line(errors[0])}")
        return 1
    file.end(name, DONE)
    return 0


def line(row: Row) -> str:
    """A row in one line: its names and values."""
    values = {name: value["median"] if name == "time" else value for name, value in row.items()}
    values = {name: value["value"] if isinstance(value, dict) else value for name, value in values.items()}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
