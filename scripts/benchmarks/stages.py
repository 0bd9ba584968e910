"""Where the time of `make demo` goes: one run in a process of its own, whose time is divided among its stages.

    python -m scripts.benchmarks.stages FILE method=mora task=uuid ...     the run; writes its stages to FILE

Each stage is the time that the process spends in some functions. Time in a stage within another stage counts for the
inner one alone.
"""

from __future__ import annotations

import functools
import json
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RUN = ("method=mora", "task=uuid")  # what `make demo` runs
START, DATA, STEPS, CURVE = "start and end", "data, model and adapter", "training steps", "points of the curve"
CHECKPOINTS, MIRROR, FINAL, SAVING = "checkpoints", "W&B", "measurement at the end", "record and trained model"
WORK = {
    START: "starts Python, composes and checks the configuration, imports torch, transformers and PEFT, and ends",
    DATA: "makes and tokenises the pairs, and builds the model, its adapter and the Trainer",
    STEPS: "fetches batches, trains, logs losses, draws the progress bar",
    CURVE: "generates the value of each pair every 100 steps",
    CHECKPOINTS: "writes a checkpoint every 100 steps and flushes it to the disk",
    MIRROR: "imports and starts W&B's client, which keeps a copy of the run, and closes it",
    FINAL: "computes the loss on keys and values, and generates the value of each pair",
    SAVING: "writes the record, the file of the progress every two seconds, and the adapter",
}


class Clock:
    """Divides the time since `start`, a value of `time.perf_counter`, among stages."""

    def __init__(self, start: float) -> None:
        self.seconds, self.calls = dict.fromkeys(WORK, 0.0), dict.fromkeys(WORK, 0)
        self.stages, self.since = [START], start

    def charge(self) -> None:
        """Add the time since the last call to the current stage."""
        now = time.perf_counter()
        self.seconds[self.stages[-1]] += now - self.since
        self.since = now

    def timed(self, owner: Any, name: str, stage: str) -> None:
        """Let the time of the function `owner.name` count for `stage` from now on."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self.stages.append(stage)
            self.calls[stage] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self.stages.pop()

        setattr(owner, name, wrapped)


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each stage, and a row for the whole run."""
    settings = [*RUN, *(("scale=smoke",) if quick else ())]
    with tempfile.TemporaryDirectory(prefix="mora-benchmark-") as folder:
        file = Path(folder) / "stages.json"
        run = [sys.executable, "-m", __name__, str(file), *settings, f"paths.results={folder}"]
        start = time.perf_counter()
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
        whole = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr[-500:]}")
        stages = json.loads(file.read_text(encoding="utf-8"))
    stages[START]["seconds"] += whole - sum(stage["seconds"] for stage in stages.values())
    for name, stage in stages.items():
        seconds = round(stage["seconds"], 3)
        yield {
            "stage": name,
            "seconds": seconds,
            "calls": stage["calls"],
            "share": {"value": round(seconds / whole, 4)},
        }
    yield {"stage": "the whole run", "seconds": round(whole, 3), "calls": 1, "share": {"value": 1.0}}


def divide(clock: Clock) -> None:
    """Say which functions belong to which stage. The functions are those that `experiments/runner.py` calls."""
    from experiments import tasks
    from experiments.store import heartbeats, records, wandb_mirror
    from experiments.train import adapt, base_models
    from experiments.train import trainer as training

    task = type(tasks.get("uuid"))
    for owner, name, stage in (
        (base_models, "tokenizer_of_run", DATA),
        (base_models, "of_run", DATA),
        (task, "prepare", DATA),
        (adapt, "adapt", DATA),
        (training, "build", DATA),
        (training, "train", STEPS),
        (task, "measure", CURVE),
        (training.RunTrainer, "_save_checkpoint", CHECKPOINTS),
        (task, "evaluate", FINAL),
        (training, "save", SAVING),
        (records.Store, "write", SAVING),
        (heartbeats.Heartbeat, "_write", SAVING),
        (wandb_mirror.WandbMirror, "__init__", MIRROR),
        (wandb_mirror.WandbMirror, "on_log", MIRROR),
        (wandb_mirror.WandbMirror, "finish", MIRROR),
    ):
        clock.timed(owner, name, stage)


def main() -> int:
    """Run run.py in this process, and write the seconds and the calls of each stage."""
    clock = Clock(time.perf_counter())
    file = Path(sys.argv.pop(1))
    from experiments.cli import command

    command.prepare_environment()  # before torch is imported
    divide(clock)
    code = 0
    try:
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    clock.charge()
    stages = {name: {"seconds": clock.seconds[name], "calls": clock.calls[name]} for name in WORK}
    file.write_text(json.dumps(stages), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
