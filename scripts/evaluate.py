"""Score the saved model of a finished run again, without training, and compare the scores with the record.

    python scripts/evaluate.py KEY                     compare; KEY is the name of a record in <results>/runs, or the
                                                       path of its file
    python scripts/evaluate.py KEY --task biomed       score on another task that has the same model at the run's scale
    python scripts/evaluate.py KEY --benchmarks gsm8k,my_task --benchmark-path tasks --limit 100
                                                       score on tasks of lm-eval, also your own; --add adds the scores
                                                       to the record

A benchmark is named as in `task.benchmarks`: task, task:metric or task:metric:filter.

Exit codes: 0 equal, or nothing was compared; 1 not equal; 2 a bad argument. Another device or another number of threads
adds numbers in another order: --tolerance sets the largest difference that counts as equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tabulate import tabulate

from experiments import tasks
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.measure import benchmarks
from experiments.reuse import load
from experiments.spec.compose import composition
from experiments.spec.parse import parse
from experiments.spec.run_config import RunConfig, benchmark_names
from experiments.store import provenance
from experiments.store.records import Record, Store


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("key", metavar="KEY")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/ and models/")
    script.add_code(parser)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--task", choices=tasks.names(), help="another task; nothing is compared")
    other.add_argument("--benchmarks", type=names, metavar="A,B", help="tasks of lm-eval; nothing is compared")
    parser.add_argument("--benchmark-path", type=Path, metavar="F", help="folder with the YAML files of your own tasks")
    parser.add_argument("--limit", type=script.positive, metavar="N", help="the first N questions of each benchmark")
    parser.add_argument("--shots", type=script.count, metavar="N", help="solved questions before each question")
    parser.add_argument("--template", action="store_true", help="put the questions in the model's chat template")
    parser.add_argument("--add", action="store_true", help="add the scores of the benchmarks to the record")
    parser.add_argument(
        "--tolerance",
        type=script.not_negative,
        default=0.0,
        help="largest difference that counts as equal (default: 0)",
    )
    options = parser.parse_args(arguments)
    for name in () if options.benchmarks else ("benchmark_path", "limit", "shots", "template", "add"):
        if (value := getattr(options, name)) is not None and value is not False:  # 0 shots are an argument too
            raise ConfigError(f"--{name.replace('_', '-')} needs --benchmarks")
    store, key = load.located(options.key, options.results)
    record = load.finished(store, key)
    if options.benchmarks:
        return score_benchmarks(record, store, options)
    config = load.settings(record, store)
    is_other = options.task not in (None, config.task.name)
    if is_other:
        config = with_task(config, options.task)
    now = load.score(record, store, config)
    print(f"{record.name}, scored on {config.task.name}:")
    if is_other:
        show(now)
        return 0
    later = load.added(record)
    return compare({k: v for k, v in record.metrics["final"].items() if k not in later}, now, options.tolerance)


@script.allowed("different names of lm-eval's tasks, such as gsm8k,arc_easy:acc_norm")
def names(text: str) -> list[str]:
    """The type of an argument that lists benchmarks, such as gsm8k,arc_easy:acc_norm."""
    return benchmark_names(text.split(","))


def score_benchmarks(record: Record, store: Store, options: argparse.Namespace) -> int:
    """Score a run on benchmarks of lm-eval, print the scores, and add them to the record with --add."""
    if options.add:
        load.check_addable(record, options.benchmarks)  # refused before minutes of scoring
    path = str(options.benchmark_path) if options.benchmark_path else None
    source = {"folder": benchmarks.folder_fingerprint(path)} if path else {}
    asked = benchmarks.load(options.benchmarks, path, options.limit, options.shots, options.template)
    scores = load.score_benchmarks(record, store, asked)
    print(f"{record.name}, scored on {', '.join(options.benchmarks)}:")
    show(scores)
    if options.add:
        note = {**asked.note, **source, "limit": options.limit, "at": provenance.now(), **provenance.versions()}
        print(f"added to {load.add(store, record.key, options.benchmarks, scores, note)}")
    return 0


def show(scores: dict[str, Any]) -> None:
    """Print scores by name."""
    print(tabulate([*scores.items()], ("metric", "now"), disable_numparse=True))


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
