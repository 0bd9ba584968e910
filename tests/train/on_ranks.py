"""Runs of the smallest cells, on one process and on two, for tests that compare both."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from experiments.store.records import Record, Store, from_json

from ..conftest import ROOT

# 13 pairs in batches of 4: the last step of each epoch has one example. Two ranks must count this example once.
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
    """Arguments of run.py, without dropout: each rank draws other dropout masks."""
    dropout = [] if method in ("fft", "vera") else ["method.dropout=0"]
    return [f"method={method}", *COMMON, *dropout, *others]


def environment(**more: str) -> dict[str, str]:
    """The environment of a user's shell, without the variables of a launcher."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith("SLURM")} | more


def start(arguments: list[str], **options) -> subprocess.Popen:
    """Start run.py as a process."""
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE, **options)


def run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error of run.py."""
    process = start(arguments, stdout=subprocess.DEVNULL)
    _, err = process.communicate()
    return process.returncode, err


def only_record(results: Path) -> Record:
    (path,) = (results / "runs").glob("*.json")
    return from_json(path.read_bytes())


def weights(results: Path) -> dict[str, Tensor]:
    """The weights that the only run below `results` saved."""
    folder = Store(results).model(only_record(results).key)
    return {name: t for p in sorted(folder.glob("*.safetensors")) for name, t in load_file(p).items()}


def assert_same_run(results: Path, reference: Path) -> None:
    """Each folder has one record under the same key; losses, weights and metrics are the same up to rounding."""
    record, expected = only_record(results), only_record(reference)
    assert record.status == "finished", record.error
    assert record.key == expected.key
    curve, expected_curve = record.metrics["curve"], expected.metrics["curve"]
    assert [row["step"] for row in curve] == [row["step"] for row in expected_curve]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(curve, expected_curve, strict=True)) < 1e-5
    saved, expected_weights = weights(results), weights(reference)
    assert saved.keys() == expected_weights.keys()
    for name, tensor in expected_weights.items():
        assert (saved[name] - tensor).abs().max() < 2e-5, name
    final, expected_final = record.metrics["final"], expected.metrics["final"]
    assert final.keys() == expected_final.keys()
    assert all(abs(final[name] - value) < 1e-4 for name, value in expected_final.items() if "loss" in name)
