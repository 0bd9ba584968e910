"""Results folders that cannot be written, and files where folders should be."""

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from ..processes import at_call, launch, outcome
from .causes import RUN, WRITES


@pytest.mark.promise(
    "A results folder that cannot be written gives one line of error, and a finished cell in the folder is recognised."
)
def test_a_read_only_results_folder(undisturbed, small_disk, tmp_path, counted):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    arguments = [*RUN, f"paths.results={small_disk}"]
    done = launch(*arguments, log=tmp_path / "log")
    assert (done.code, done.out) == (2, "")
    (message,) = done.messages
    assert message.startswith(f"error: paths.results: cannot write to {small_disk}")
    assert message.endswith("Read-only file system")
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
    """Mount the folder over itself, read-only: a file system with open files cannot itself become read-only."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)


@pytest.mark.slow
@pytest.mark.promise("A run whose results folder becomes read-only fails with one line.")
@pytest.mark.parametrize("write", ["the first record", "the second checkpoint", "the last record"])
def test_a_results_folder_that_becomes_read_only(write, undisturbed, small_disk, tmp_path, counted):
    results = small_disk / "results"
    before = functools.partial(at_call, *WRITES[write], functools.partial(cover_read_only, results))
    arguments = [*RUN, f"paths.results={results}"]
    done = launch(*arguments, log=tmp_path / "log", before=before)
    assert done.code == 1
    (message,) = done.messages
    assert str(small_disk / "results") in message
    assert "Read-only file system" in message
    subprocess.run(["umount", results], check=True)
    assert launch(*arguments, log=tmp_path / "log").code == 0
    assert outcome(small_disk / "results") == undisturbed[0]
    counted(1, "folders turned read-only")


@pytest.mark.promise("A file in the place of a folder gives one line of error, and the file does not change.")
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
