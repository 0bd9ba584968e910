"""Faults, each caused for real: damaged checkpoints, full disks and memory, read-only folders, odd clocks, dead W&B."""

import errno
import functools
import json
import os
import pkgutil
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from experiments import checkpoints
from experiments.errors import out_of_memory

from .conftest import ROOT
from .processes import SMOKE, die, half_written, launch, outcome, the_record

# Checkpoints at 2, 4, ... 12; merges at 4 and 8 lie on them.
RUN = ("method=remora", *SMOKE, "training.checkpoint_every=2")


def die_at(function: str, count: int) -> None:
    """Let the `count`-th call of module.function kill the process, before its work."""
    instead(function, count, die)


def instead(function: str, count: int, act) -> None:
    """Let `act` happen right before the `count`-th call of module.function."""
    where, _, name = function.rpartition(".")
    place, calls = pkgutil.resolve_name(where), [0]
    original = getattr(place, name)

    def acting(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            act()
        return original(*args, **kwargs)

    setattr(place, name, acting)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The outcome of RUN, and the results folder of one that was killed with checkpoints 6 and 8 on the disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    whole, killed = folder / "whole", folder / "killed"
    assert launch(*RUN, f"paths.results={whole}", log=folder / "log").code == 0
    before = functools.partial(die_at, "experiments.checkpoints.seal", 5)
    assert launch(*RUN, f"paths.results={killed}", log=folder / "log", before=before).code == -9
    (run,) = (killed / "checkpoints").iterdir()
    assert [p.name for p in checkpoints.found(run)] == ["checkpoint-6", "checkpoint-8"]
    return outcome(whole), killed


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    """Bytes of the same number: only the sums can tell."""
    path.write_bytes(b"\x93" * path.stat().st_size)


DAMAGES = (truncate, empty, garbage, os.unlink)


def files_of_a_checkpoint() -> list[str]:
    weights = ["adapter_model.safetensors", "adapter_config.json", "base.safetensors"]
    return [*weights, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", checkpoints.SEAL]


@pytest.mark.promise(
    "A checkpoint that was truncated, emptied or overwritten, or lacks a file, is recognised and named."
)
def test_every_damage_to_every_file_of_a_checkpoint_is_recognised(undisturbed, tmp_path, capsys, counted):
    (run,) = (undisturbed[1] / "checkpoints").iterdir()
    names = sorted(p.name for p in (run / "checkpoint-8").iterdir())
    assert set(names) >= set(files_of_a_checkpoint())
    assert checkpoints.newest(run) == run / "checkpoint-8"
    for name in names:
        for damage in DAMAGES:
            folder = tmp_path / f"{name}-{damage.__name__}"
            shutil.copytree(run, folder)
            damage(folder / "checkpoint-8" / name)
            assert checkpoints.newest(folder) == folder / "checkpoint-6"
            assert f"{folder / 'checkpoint-8'} is damaged" in capsys.readouterr().err
            counted(1, "damages")


FALL_BACK = "A damaged checkpoint is not used: the one before it is, or the beginning, and the result is the same bits."


@pytest.mark.promise(FALL_BACK)
@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (["checkpoint-8"], ["checkpoint-8 is damaged"]),
        (
            ["checkpoint-8", "checkpoint-6"],
            ["checkpoint-8 is damaged", "checkpoint-6 is damaged", "from the beginning"],
        ),
    ],
    ids=["newest", "all"],
)
def test_a_run_goes_on_from_what_is_left(damaged, said, undisturbed, tmp_path, counted):
    expected, killed = undisturbed
    shutil.copytree(killed, tmp_path / "results")
    for name in damaged:
        (path,) = (tmp_path / "results").glob(f"checkpoints/*/{name}/optimizer.pt")
        truncate(path)
    done = launch(*RUN, f"paths.results={tmp_path / 'results'}", log=tmp_path / "log")
    assert done.code == 0, done.err
    assert [line for line in said if line not in done.err] == []
    assert done.err.count("warning") == len(said)
    assert outcome(tmp_path / "results") == expected
    counted(len(damaged), "damaged checkpoints")


@pytest.mark.slow
@pytest.mark.promise(FALL_BACK)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", files_of_a_checkpoint())
def test_a_run_goes_on_whichever_file_is_damaged(name, damage, undisturbed, tmp_path, counted):
    expected, killed = undisturbed
    shutil.copytree(killed, tmp_path / "results")
    (path,) = (tmp_path / "results").glob(f"checkpoints/*/checkpoint-8/{name}")
    damage(path)
    done = launch(*RUN, f"paths.results={tmp_path / 'results'}", log=tmp_path / "log")
    assert done.code == 0, done.err
    assert "checkpoint-8 is damaged" in done.err
    assert outcome(tmp_path / "results") == expected
    counted(1, "damaged checkpoints")


@pytest.mark.slow
@pytest.mark.promise(FALL_BACK)
def test_a_damaged_checkpoint_never_pushes_a_whole_one_out(undisturbed, tmp_path):
    """Killed again after the fall-back: what was saved since is used, the damaged one is gone."""
    expected, killed = undisturbed
    results = tmp_path / "results"
    shutil.copytree(killed, results)
    (run,) = (results / "checkpoints").iterdir()
    truncate(run / "checkpoint-6" / "optimizer.pt")
    truncate(run / "checkpoint-8" / "optimizer.pt")
    before = functools.partial(die_at, "experiments.checkpoints.seal", 3)
    assert launch(*RUN, f"paths.results={results}", log=tmp_path / "log", before=before).code == -9
    assert [p.name for p in checkpoints.found(run)] == ["checkpoint-2", "checkpoint-4"]
    done = launch(*RUN, f"paths.results={results}", log=tmp_path / "log")
    assert "damaged" not in done.err
    assert outcome(results) == expected


# --- a full disk -----------------------------------------------------------------------------------------------------

SIZE = 8 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, leave: int = 0) -> None:
    """Fill the disk but for `leave` bytes."""
    free = shutil.disk_usage(folder).free - leave
    with open(folder / "filler", "ab") as file:
        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)


FULL = (
    "Where the disk is full a run ends with one line that names the folder, and exit code 1; nothing half-written is "
    "left, what was there stands, and once there is room the same command ends as if nothing had been."
)
# Which write finds the disk full: module.function, and at which call of it.
WRITES = {
    "the lock": ("experiments.records.socket.gethostname", 1),
    "the first record": ("experiments.storage.write_json", 1),
    "the first checkpoint": ("experiments.training.Trainer._save_checkpoint", 1),
    "the second checkpoint": ("experiments.training.Trainer._save_checkpoint", 2),
    "the seal of the second checkpoint": ("experiments.checkpoints.seal", 2),
    "the trained model": ("experiments.training.RunTrainer.save_model", 7),
    "the last record": ("experiments.storage.write_json", 8),
}
CHEAP = "the second checkpoint"


@pytest.mark.promise(FULL)
@pytest.mark.parametrize(
    "write", [pytest.param(w, marks=[] if w == CHEAP else pytest.mark.slow, id=w.replace(" ", "-")) for w in WRITES]
)
def test_a_full_disk(write, undisturbed, small_disk, tmp_path, counted):
    function, count = WRITES[write]
    arguments = [*RUN, f"paths.results={small_disk / 'results'}"]
    before = functools.partial(instead, function, count, functools.partial(fill, small_disk))
    done = launch(*arguments, log=tmp_path / "log", before=before)
    assert done.code == 1, done
    assert len(done.said) == 1, done.said
    assert str(small_disk / "results") in done.said[0]
    assert "(0.0 MB are free)" in done.said[0]
    assert half_written(small_disk) == []
    for run in (small_disk / "results" / "checkpoints").glob("*"):
        assert all(checkpoints.damage(c) is None for c in checkpoints.found(run))
    records = [json.loads(p.read_text()) for p in (small_disk / "results").glob("runs/*.json")]
    assert {r["status"] for r in records} <= {"running", "failed"}
    (small_disk / "filler").unlink()
    done = launch(*arguments, log=tmp_path / "log")
    assert done.code == 0, done.err
    assert outcome(small_disk / "results") == undisturbed[0]
    counted(1, "full disks")


@pytest.mark.slow
@pytest.mark.promise("Tables that find the disk full stay what they were, and the script says so in one line.")
def test_tables_on_a_full_disk(undisturbed, small_disk, capsys, counted):
    from experiments.aggregate import command_line  # here: every process that a test starts imports this file
    from scripts import make_tables

    shutil.copytree(undisturbed[1].with_name("whole") / "runs", small_disk / "runs")
    arguments = ["--results", str(small_disk), "--table", "3"]
    assert make_tables.main(arguments) == 0
    tables = {p: p.read_bytes() for p in (small_disk / "tables").rglob("*") if p.is_file()}
    assert tables
    for path in tables:
        path.write_text("of an earlier run")
    fill(small_disk)
    capsys.readouterr()
    assert command_line.guarded(lambda: make_tables.main(arguments)) == 1
    assert capsys.readouterr().err.endswith("No space left on device\n")
    assert {p.read_text() for p in tables} == {"of an earlier run"}
    assert half_written(small_disk) == []
    counted(1, "full disks")


def limit_files(size: int) -> None:
    """No file of this process may grow beyond `size` bytes, as under a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.promise(FULL)
@pytest.mark.parametrize("size", [100, 200_000])
def test_a_limit_on_the_size_of_files(size, undisturbed, tmp_path, counted):
    """Below the size of a record, and below that of an adapter: no root is needed for this one."""
    results = tmp_path / "results"
    before = functools.partial(limit_files, size)
    done = launch(*RUN, f"paths.results={results}", log=Path("/dev/shm") / tmp_path.name, before=before)
    assert done.code == 1, done
    assert half_written(results) == []
    assert list(results.glob("checkpoints/*/*")) == []
    assert launch(*RUN, f"paths.results={results}", log=tmp_path / "log").code == 0
    assert outcome(results) == undisturbed[0]
    counted(1, "full disks")


# --- a results folder that cannot be written -------------------------------------------------------------------------


@pytest.mark.promise(
    "A results folder that cannot be written is said in one line; a finished cell in it is recognised."
)
def test_a_read_only_results_folder(undisturbed, small_disk, tmp_path, counted):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    arguments = [*RUN, f"paths.results={small_disk}"]
    done = launch(*arguments, log=tmp_path / "log")
    assert (done.code, done.out) == (2, "")
    (said,) = done.said
    assert said.startswith(f"error: paths.results: cannot write to {small_disk}")
    assert said.endswith("Read-only file system")
    done = launch("-m", *arguments, log=tmp_path / "log")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert str(small_disk) in done.err
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    shutil.copytree(undisturbed[1].with_name("whole") / "runs", small_disk / "runs")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = launch(*arguments, log=tmp_path / "log")
    assert (done.code, done.err) == (0, "")
    assert "finished before" in done.out
    counted(3, "runs in a read-only folder")


def cover_read_only(folder: Path) -> None:
    """Mount the folder over itself, read-only: where files are open a file system cannot be made so."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)


@pytest.mark.slow
@pytest.mark.promise("A results folder that becomes read-only during a run fails it with one line.")
@pytest.mark.parametrize("write", ["the first record", "the second checkpoint", "the last record"])
def test_a_results_folder_that_becomes_read_only(write, undisturbed, small_disk, tmp_path, counted):
    results = small_disk / "results"
    before = functools.partial(instead, *WRITES[write], functools.partial(cover_read_only, results))
    arguments = [*RUN, f"paths.results={results}"]
    done = launch(*arguments, log=tmp_path / "log", before=before)
    assert done.code == 1
    (said,) = done.said
    assert str(small_disk / "results") in said
    assert "Read-only file system" in said
    subprocess.run(["umount", results], check=True)
    assert launch(*arguments, log=tmp_path / "log").code == 0
    assert outcome(small_disk / "results") == undisturbed[0]
    counted(1, "folders turned read-only")


@pytest.mark.promise("A file where a folder should be is said in one line, and is left as it is.")
@pytest.mark.parametrize("name", ["", "locks", "runs"])
def test_a_file_in_place_of_a_folder(name, tmp_path, counted):
    results = tmp_path / "results"
    file = results / name if name else results
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    done = launch(*RUN, f"paths.results={results}", log=tmp_path / "log")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert str(results) in done.err
    assert file.read_text() == "mine"
    counted(1, "files in the way")


# --- memory ----------------------------------------------------------------------------------------------------------


def limit_memory(more: int) -> None:
    """Let this process take no more than `more` bytes beyond what it has."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    size = int(line.split()[1]) * 1024 + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.mark.promise(
    "A run that needs more memory than there is fails with one line, and the settings that would help."
)
def test_out_of_memory(tmp_path, counted):
    arguments = [*RUN, "task.pairs=4096", "training.batch_size=4096", f"paths.results={tmp_path / 'results'}"]
    before = functools.partial(limit_memory, 1 << 30)
    done = launch(*arguments, log=tmp_path / "log", before=before)
    assert done.code == 1, done
    (said,) = done.said
    for setting in (
        "hardware.device_batch_size below 4096",
        "hardware.activation_checkpointing",
        "method.rank below 8",
    ):
        assert setting in said
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
    """Every look at the clock finds it an hour earlier than the last: a machine whose time is set while it works."""
    from experiments import provenance

    clock = [time.time()]

    def earlier() -> float:
        clock[0] -= 3600
        return clock[0]

    time.time = earlier
    provenance.now = lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(earlier()))


@pytest.mark.slow
@pytest.mark.promise("A clock that is set back during a run changes nothing but the two times in the record.")
def test_a_clock_that_jumps_back(undisturbed, tmp_path, counted):
    begun = time.monotonic()
    done = launch(*RUN, f"paths.results={tmp_path / 'results'}", log=tmp_path / "log", before=unwind_clock)
    took = time.monotonic() - begun
    assert done.code == 0, done.err
    record = the_record(tmp_path / "results")
    assert record["provenance"]["finished_at"] < record["provenance"]["started_at"]
    assert 0 < record["cost"]["seconds"] < took
    assert outcome(tmp_path / "results") == undisturbed[0]
    counted(1, "clocks set back")


def kill_wandb() -> None:
    """Kill W&B's own processes when the second row of the curve is sent."""
    import psutil

    from experiments.tracking import WandbMirror

    def kill() -> None:
        mine = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("wandb")]
        for process in mine:
            process.kill()
        print(f"killed {len(mine)}")

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
    "W&B that dies during a run is one warning; the run goes on, and the next of a sweep is mirrored again."
)
def test_wandb_dies_within_a_run(tmp_path, counted):
    probe = "import sys, run; from tests.test_faults import kill_wandb; kill_wandb(); sys.exit(run.main())"
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
