"""How long run.py takes to answer: whole processes, from their start to their end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import timing

RUN = str(Path(__file__).parents[2] / "run.py")
SMOKE = ("method=mora", "task=uuid", "scale=smoke", "logger=none", "hardware=cpu")


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each command."""
    with tempfile.TemporaryDirectory(prefix="mora-benchmark-") as folder:
        cell = [RUN, *SMOKE, f"paths.results={folder}"]
        call(cell, 0)  # the cell that is then found finished
        commands = {
            "python -c pass": (["-c", "pass"], 0),
            "run.py --help": ([RUN, "--help"], 0),
            "run.py --cfg job": ([RUN, "--cfg", "job"], 0),
            "a configuration error": ([RUN, "method.rank=none"], 2),
            "a finished cell": (cell, 0),
        }
        calls = {name: lambda arguments=arguments: call(*arguments) for name, arguments in commands.items()}
        samples = timing.alternate(calls, 0.0 if quick else 20.0, (3, 15))
        for name, times in samples.items():
            yield {"command": name, "time": timing.summary(times)}


def call(arguments: list[str], code: int) -> None:
    """Run Python with these arguments.

    Raises:
        RuntimeError: It did not end with `code`.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8")
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}, not {code}: {done.stderr[-500:]}")
