"""All commands of docs/cluster.md are correct configurations, and the commands that this machine can run do run."""

import importlib.util
import shlex
import subprocess
import sys

import pytest

from ..conftest import ROOT, compose
from .test_docs import blocks

LINES = [shlex.split(line) for b in blocks("docs/cluster.md", "sh") for line in b.splitlines()]
RUNS = [c[2:] for c in LINES if c[:2] == ["python", "run.py"]]
DRY = [c for c in RUNS if "dry_run=true" in c]


def needs(arguments: list[str]) -> None:
    """Skip the test if the command needs a cluster, or a package that is not installed."""
    text = " ".join(arguments)
    if "hardware=slurm" in text:
        pytest.skip("needs a cluster; tests/test_cluster.py runs it on a stand-in")
    for setting, package in (("quantization=", "bitsandbytes"), ("submitit_", "submitit")):
        if setting in text and "dry_run" not in text and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


def test_there_are_commands_of_every_kind():
    assert len(DRY) >= 3
    assert any("hardware=slurm" in c for c in RUNS)
    assert any("quantization=nf4" in c for c in RUNS if c not in DRY)


@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_they_are_right_configurations(arguments, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())  # every package counts as installed
    own = [a for a in arguments if a != "-m" and not a.startswith(("hardware=slurm", "hydra"))]
    compose(*(f"{name}={value.split(',')[0]}" for name, _, value in (a.partition("=") for a in own)))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_they_run(arguments, tmp_path):
    """Dry runs run unchanged. The other commands run at smoke scale."""
    needs(arguments)
    smaller = [] if arguments in DRY else ["scale=smoke", "hardware=cpu", "logger=none", f"paths.results={tmp_path}"]
    own = [a for a in arguments if arguments in DRY or not a.startswith("scale=")]
    done = subprocess.run([sys.executable, "run.py", *own, *smaller], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_slurm_script_is_printed():
    (command,) = [c for c in LINES if "slurm" in c and c[1] == "scripts/plan.py"]
    command = [sys.executable, *command[1 : command.index(">")]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n#SBATCH ")
    assert "hardware=gpu" in done.stdout
