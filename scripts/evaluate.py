"""Score the saved model of a finished run again, without training, and compare the scores with the record.

    python scripts/evaluate.py KEY                     compare; KEY is the name of a record in <results>/runs
    python scripts/evaluate.py KEY --task biomed       score on another task that has the same model at the run's scale

Exit codes: 0 equal, or another task; 1 not equal; 2 a bad argument. Another device or another number of threads adds
numbers in another order: --tolerance sets the largest difference that counts as equal.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tabulate import tabulate

from experiments import tasks
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.reuse import load
from experiments.spec.compose import composition
from experiments.spec.parse import parse
from experiments.spec.run_config import RunConfig
from experiments.store.records import Store


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("key", metavar="KEY")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/ and models/")
    parser.add_argument("--task", choices=tasks.NAMES, help="another task; nothing is compared")
    parser.add_argument(
        "--tolerance",
        type=script.not_negative,
        default=0.0,
        help="largest difference that counts as equal (default: 0)",
    )
    options = parser.parse_args(arguments)
    store = Store(options.results)
    record = load.finished(store, options.key)
    config = load.settings(record, store)
    other = options.task not in (None, config.task.name)
    if other:
        config = with_task(config, options.task)
    now = load.score(record, store, config)
    print(f"{record.name}, scored on {config.task.name}:")
    if other:
        print(tabulate([*now.items()], ("metric", "now"), disable_numparse=True))
        return 0
    return compare(record.metrics["final"], now, options.tolerance)


def with_task(config: RunConfig, task: str) -> RunConfig:
    """The configuration of a run, with the task section of `task` at the same scale."""
    composed = parse(composition(["method=fft", f"task={task}", f"scale={config.scale}"]))
    if composed.model != config.model:
        raise ConfigError(
            f"--task: {task} at scale {config.scale} is measured on {composed.model}, this run trained {config.model}"
        )
    return config.replace(task=composed.task)


def compare(recorded: dict[str, Any], now: dict[str, Any], tolerance: float) -> int:
    """Print each metric of the record and of now, and whether all are equal. Gives the exit code."""
    rows, equal = [], True
    for name in sorted({*recorded, *now}):
        a, b = recorded.get(name), now.get(name)
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        same = name in recorded and name in now and (a == b or (numbers and abs(a - b) <= tolerance))
        equal &= same
        rows.append([name, a, b, "equal" if same else "not equal"])
    print(tabulate(rows, ("metric", "record", "now", ""), disable_numparse=True))
    print("equal" if equal else "not equal")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(script.guarded(main))
