"""Runs of the smallest cells on one and on two processes, as tests compare them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from experiments.store.records import Record, Store

from ..conftest import ROOT

# 13 pairs and a batch of 4: the last step of each epoch has one example, which two ranks must not count twice.
COMMON = (
    "scale=smoke",
    "logger=none",
    "hardware.threads=1",
    "hardware.device=cpu",
    "hardware.precision=fp32",
    "hardware.device_batch_size=1",
    "task.pairs=13",
    "training.batch_size=4",
    "training.log_every=1",
    "training.evaluate_every=6",
)
TWO = ("hardware.processes=2",)


def settings(method: str, *others: str) -> list[str]:
    """Arguments of run.py; without dropout, whose noise differs between the ranks."""
    dropout = [] if method == "fft" else ["method.dropout=0"]
    return [f"method={method}", *COMMON, *dropout, *others]


def environment(**more: str) -> dict[str, str]:
    """That of a user's shell: nothing of a launcher's."""
    started = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {k: v for k, v in os.environ.items() if k not in started and not k.startswith("SLURM")} | more


def start(arguments: list[str], **options) -> subprocess.Popen:
    """run.py in a process of its own."""
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE, **options)


def run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error of run.py. The limit is pytest's, which is longer for slow tests."""
    process = start(arguments, stdout=subprocess.DEVNULL)
    _, err = process.communicate()
    return process.returncode, err


def only_record(results: Path) -> Record:
    (path,) = (results / "runs").glob("*.json")
    return Record(**json.loads(path.read_text()))


def weights(results: Path) -> dict[str, Tensor]:
    """What the only run below `results` saved of its model."""
    folder = Store(results).model(only_record(results).key)
    return {name: t for p in sorted(folder.glob("*.safetensors")) for name, t in load_file(p).items()}


def assert_same_run(results: Path, expected: Path) -> None:
    """The loss curve to 1e-5, the saved weights, the metrics, and one record under the same key."""
    here, there = only_record(results), only_record(expected)
    assert here.status == "finished", here.error
    assert here.key == there.key
    curve, known = here.metrics["curve"], there.metrics["curve"]
    assert [row["step"] for row in curve] == [row["step"] for row in known]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(curve, known, strict=True)) < 1e-5
    saved, wanted = weights(results), weights(expected)
    assert saved.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (saved[name] - tensor).abs().max() < 2e-5, name
    final, wanted_final = here.metrics["final"], there.metrics["final"]
    assert final.keys() == wanted_final.keys()
    assert all(abs(final[name] - value) < 1e-4 for name, value in wanted_final.items() if "loss" in name)
