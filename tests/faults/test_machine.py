"""Too little memory, clocks that are set back, and W&B processes that die."""

import errno
import functools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from experiments.errors import out_of_memory

from ..conftest import ROOT
from ..processes import launch, outcome, the_record
from .causes import RUN

# --- memory ----------------------------------------------------------------------------------------------------------


def limit_memory(more: int) -> None:
    """Let this process take at most `more` bytes beyond the memory that it has."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    size = int(line.split()[1]) * 1024 + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.mark.promise(
    "A run that needs more memory than the machine has fails with one line that names the settings that would help."
)
def test_out_of_memory(tmp_path, counted):
    arguments = [*RUN, "task.pairs=4096", "training.batch_size=4096", f"paths.results={tmp_path / 'results'}"]
    before = functools.partial(limit_memory, 1 << 30)
    done = launch(*arguments, log=tmp_path / "log", before=before)
    assert done.code == 1, done
    (message,) = done.messages
    for setting in (
        "hardware.device_batch_size below 4096",
        "hardware.activation_checkpointing",
        "method.rank below 8",
    ):
        assert setting in message
    record = the_record(tmp_path / "results")
    assert record["status"] == "failed"
    assert record["error"]["type"] == "OutOfMemoryError"
    counted(1, "times out of memory")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:131] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
    ids=str,
)
def test_what_counts_as_out_of_memory(error, expected):
    assert out_of_memory(error) is expected


# --- clocks and W&B --------------------------------------------------------------------------------------------------


def unwind_clock() -> None:
    """Set the clock back by an hour at each reading."""
    from experiments.store import provenance

    clock = [time.time()]

    def earlier() -> float:
        clock[0] -= 3600
        return clock[0]

    time.time = earlier
    provenance.now = lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(earlier()))


@pytest.mark.slow
@pytest.mark.promise("A clock that is set back during a run changes nothing but the two times in the record.")
def test_a_clock_that_jumps_back(undisturbed, tmp_path, counted):
    start = time.monotonic()
    done = launch(*RUN, f"paths.results={tmp_path / 'results'}", log=tmp_path / "log", before=unwind_clock)
    duration = time.monotonic() - start
    assert done.code == 0, done.err
    record = the_record(tmp_path / "results")
    assert record["provenance"]["finished_at"] < record["provenance"]["started_at"]
    assert 0 < record["cost"]["seconds"] < duration
    assert outcome(tmp_path / "results") == undisturbed[0]
    counted(1, "clocks set back")


def kill_wandb() -> None:
    """Kill W&B's own processes when the second row of the curve is sent."""
    import psutil

    from experiments.store.wandb_mirror import WandbMirror

    def kill() -> None:
        processes = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("wandb")]
        for process in processes:
            process.kill()
        print(f"killed {len(processes)}")

    original, calls = WandbMirror.on_log, [0]

    def on_log(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] == 2:
            kill()
            time.sleep(0.5)
        return original(self, *args, **kwargs)

    WandbMirror.on_log = on_log


@pytest.mark.slow
@pytest.mark.promise(
    "If W&B dies during a run, the run warns once and goes on, and the next run of the sweep is mirrored again."
)
def test_wandb_dies_within_a_run(tmp_path, counted):
    probe = "import sys, run; from tests.faults.test_machine import kill_wandb; kill_wandb(); sys.exit(run.main())"
    arguments = ["-m", "method=lora", "scale=smoke", "hardware=cpu", "seed=0,1", f"paths.results={tmp_path}"]
    env = os.environ | {"WANDB_API_KEY": "", "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "killed 2" in done.stdout
    assert done.stderr.count("warning") == 1
    assert "W&B failed and is off for this run" in done.stderr
    assert "Traceback" not in done.stderr
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*.json")]
    assert {r["status"] for r in records} == {"finished"}
    assert len(list((tmp_path / "wandb").rglob("*.wandb"))) == len(records) == 2
    counted(1, "times W&B was killed")
