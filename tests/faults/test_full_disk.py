"""Full disks and quotas."""

import functools
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.train import checkpoints

from ..processes import at_call, half_written, launch, outcome
from .causes import RUN, WRITES


def fill(folder: Path, leave: int = 0) -> None:
    """Fill the disk, except for `leave` bytes."""
    free = shutil.disk_usage(folder).free - leave
    with open(folder / "filler", "ab") as file:
        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)


FULL = (
    "On a full disk a run ends with exit code 1 and one line that names the folder; no half-written file is left, "
    "older files do not change, and once there is room the same command gives the result of an undisturbed run."
)
CHEAP = "the second checkpoint"


@pytest.mark.promise(FULL)
@pytest.mark.parametrize(
    "write", [pytest.param(w, marks=[] if w == CHEAP else pytest.mark.slow, id=w.replace(" ", "-")) for w in WRITES]
)
def test_a_full_disk(write, undisturbed, small_disk, tmp_path, counted):
    function, count = WRITES[write]
    arguments = [*RUN, f"paths.results={small_disk / 'results'}"]
    before = functools.partial(at_call, function, count, functools.partial(fill, small_disk))
    done = launch(*arguments, log=tmp_path / "log", before=before)
    assert done.code == 1, done
    assert len(done.messages) == 1, done.messages
    assert str(small_disk / "results") in done.messages[0]
    assert "(0.0 MB are free)" in done.messages[0]
    assert half_written(small_disk) == []
    for run in (small_disk / "results" / "checkpoints").glob("*"):
        assert all(checkpoints.damage(c) is None for c in checkpoints.by_step(run))
    records = [json.loads(p.read_text()) for p in (small_disk / "results").glob("runs/*.json")]
    assert {r["status"] for r in records} <= {"running", "failed"}
    (small_disk / "filler").unlink()
    done = launch(*arguments, log=tmp_path / "log")
    assert done.code == 0, done.err
    assert outcome(small_disk / "results") == undisturbed[0]
    counted(1, "full disks")


@pytest.mark.slow
@pytest.mark.promise("If the disk is full, the old tables stay unchanged, and the script prints one line of error.")
def test_tables_on_a_full_disk(undisturbed, small_disk, capsys, counted):
    from experiments.cli import script  # not at the top, because every process that a test starts imports this file
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
    assert script.guarded(lambda: make_tables.main(arguments)) == 1
    assert capsys.readouterr().err.endswith("No space left on device\n")
    assert {p.read_text() for p in tables} == {"of an earlier run"}
    assert half_written(small_disk) == []
    counted(1, "full disks")


@pytest.mark.promise("On a full cache disk a run goes on, with the warnings that it has for a cache that is read-only.")
def test_a_full_cache_disk_warns_as_a_read_only_one_does(small_disk, tmp_path, monkeypatch, capsys, counted):
    from experiments import files
    from experiments.data import rows
    from experiments.spec import shapes
    from experiments.train import scratch

    monkeypatch.setattr(scratch, "learn_tokenizer", lambda *_: scratch.byte_tokenizer().backend_tokenizer)
    monkeypatch.setattr(files, "SETTLED", -1.0)
    (tmp_path / "config.json").write_text("{}")

    def warnings() -> list[str]:
        """Use everything that a run keeps in the cache."""
        built = rows.Rows.of([([1] * 4000, [True] * 4000)])
        assert len(rows.cached(small_disk, "k", lambda: built)) == 1
        assert scratch.learned_tokenizer(1024, small_disk)("a").input_ids
        assert files.sums([tmp_path / "config.json"], small_disk / "sums" / "s.json")
        shapes.keep(shapes.NAMED["tiny"].shape, str(tmp_path), small_disk)
        assert half_written(small_disk) == []
        return [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]

    fill(small_disk)
    full = warnings()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert warnings() == full
    assert full == [
        f"tokenised rows are not kept in {small_disk / 'rows'}",
        f"the tokenizer is not kept in {small_disk / 'models'}",
    ]
    counted(2, "caches that take nothing")


def limit_files(size: int) -> None:
    """Refuse every write of this process beyond `size` bytes of a file, as a quota does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.promise(FULL)
@pytest.mark.parametrize("size", [100, 200_000])
def test_a_limit_on_the_size_of_files(size, undisturbed, tmp_path, counted):
    """One limit is below the size of a record, the other below the size of an adapter. This test needs no root."""
    results = tmp_path / "results"
    before = functools.partial(limit_files, size)
    done = launch(*RUN, f"paths.results={results}", log=Path("/dev/shm") / tmp_path.name, before=before)
    assert done.code == 1, done
    assert half_written(results) == []
    assert list(results.glob("checkpoints/*/*")) == []
    assert launch(*RUN, f"paths.results={results}", log=tmp_path / "log").code == 0
    assert outcome(results) == undisturbed[0]
    counted(1, "full disks")
