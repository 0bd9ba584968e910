"""Every command of docs/scaling.md composes. The commands that this machine can run run at smoke scale."""

import shlex
import subprocess
import sys

import pytest

from experiments.spec import hardware

from ..conftest import ROOT, compose
from ..train.on_ranks import environment, only_record
from .test_docs import blocks

PAGE = "docs/scaling.md"
COMMANDS = [
    words
    for block in blocks(PAGE, "sh")
    for line in block.splitlines()
    if "run.py" in (words := shlex.split(line, comments=True))
]
SMOKE = ("scale=smoke", "logger=none", "training.steps=4", "training.evaluate_every=4", "training.warmup_steps=1")


def arguments_of(words: list[str]) -> list[str]:
    return words[words.index("run.py") + 1 :]


def runs_here(words: list[str]) -> bool:
    return "hardware.device=cpu" in words or "hardware=cpu" in words


def test_the_page_shows_every_kind():
    chosen = {a for words in COMMANDS for a in arguments_of(words) if a.startswith("hardware=")}
    assert {f"hardware={name}" for name in ("cpu", "gpu", "ddp", "fsdp", "deepspeed")} <= chosen
    assert {words[0] for words in COMMANDS} >= {"python", "torchrun", "srun"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_commands_are_right_configurations(words, monkeypatch):
    """The test composes each command as on a machine with eight GPUs, or as one rank of the command's launcher."""
    monkeypatch.setattr(hardware, "_has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "_has_bf16", lambda: True)
    monkeypatch.setattr(hardware, "_gpus", lambda: 8)
    monkeypatch.setattr(hardware, "_has_deepspeed", lambda: True)
    if words[0] != "python":
        ranks = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
        for name, value in ranks.items():
            monkeypatch.setenv(name, value)
    values = [a for a in arguments_of(words) if not a.startswith("-")]
    composed = compose(*values).hardware
    if words[0] != "python":
        assert (composed.processes, composed.nodes) == (8, 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", [w for w in COMMANDS if runs_here(w)], ids=" ".join)
def test_the_commands_run(words, tmp_path):
    arguments = [a for a in arguments_of(words) if not a.startswith("scale=")]
    done = subprocess.run(
        [sys.executable, "run.py", *arguments, *SMOKE, f"paths.results={tmp_path}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert only_record(tmp_path).status == "finished"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_for_several_nodes_runs_on_one(tmp_path):
    """torchrun as shown, but for one node, two processes, and CPUs."""
    (words,) = (w for w in COMMANDS if w[0] == "torchrun")
    changed = {"--nnodes=2": "--nnodes=1", "--nproc-per-node=8": "--nproc-per-node=2"}
    changed |= {"--rdzv-endpoint=HOST:29500": "--rdzv-endpoint=localhost:0", "scale=paper": "scale=smoke"}
    words = [changed.get(word, word) for word in words[1:]]
    own = ["hardware.device=cpu", "task=uuid", *SMOKE[1:], f"paths.results={tmp_path}"]
    words = [word for word in words if not word.startswith("task=")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, *own],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert only_record(tmp_path).provenance["processes"] == 2
