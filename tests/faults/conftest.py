import functools
import subprocess

import pytest

from experiments.train import checkpoints

from ..processes import launch, outcome
from .causes import RUN, die_at


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The outcome of RUN, and the results folder of a RUN that was killed with checkpoints 6 and 8 on the disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    whole, killed = folder / "whole", folder / "killed"
    assert launch(*RUN, f"paths.results={whole}", log=folder / "log").code == 0
    before = functools.partial(die_at, "experiments.train.checkpoints.seal", 5)
    assert launch(*RUN, f"paths.results={killed}", log=folder / "log", before=before).code == -9
    (run,) = (killed / "checkpoints").iterdir()
    assert [p.name for p in checkpoints.by_step(run)] == ["checkpoint-6", "checkpoint-8"]
    return outcome(whole), killed


SIZE = 8 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
