"""Checkpoints whose files were truncated, emptied, overwritten or removed."""

import functools
import os
import shutil
from pathlib import Path

import pytest

from experiments.train import checkpoints

from ..processes import launch, outcome
from .causes import RUN, die_at


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    """Overwrite a file with as many other bytes: only the checksum of the file differs."""
    path.write_bytes(b"\x93" * path.stat().st_size)


DAMAGES = (truncate, empty, garbage, os.unlink)


def files_of_a_checkpoint() -> list[str]:
    weights = ["adapter_model.safetensors", "adapter_config.json", "base.safetensors"]
    return [*weights, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", checkpoints.SEAL]


@pytest.mark.promise(
    "A checkpoint that was truncated, emptied or overwritten, or that lacks a file, is named in a warning and not used."
)
def test_every_damage_to_every_file_of_a_checkpoint_is_recognised(undisturbed, tmp_path, capsys, counted):
    (run,) = (undisturbed[1] / "checkpoints").iterdir()
    names = sorted(p.name for p in (run / "checkpoint-8").iterdir())
    assert set(names) >= set(files_of_a_checkpoint())
    assert checkpoints.newest_intact(run) == run / "checkpoint-8"
    for name in names:
        for damage in DAMAGES:
            folder = tmp_path / f"{name}-{damage.__name__}"
            shutil.copytree(run, folder)
            damage(folder / "checkpoint-8" / name)
            assert checkpoints.newest_intact(folder) == folder / "checkpoint-6"
            assert f"{folder / 'checkpoint-8'} is damaged" in capsys.readouterr().err
            counted(1, "damages")


FALL_BACK = "If a checkpoint is damaged, the run uses an older checkpoint or starts again, and ends with the same bits."


@pytest.mark.promise(FALL_BACK)
@pytest.mark.parametrize(
    ("damaged", "warnings"),
    [
        (["checkpoint-8"], ["checkpoint-8 is damaged"]),
        (
            ["checkpoint-8", "checkpoint-6"],
            ["checkpoint-8 is damaged", "checkpoint-6 is damaged", "from the beginning"],
        ),
    ],
    ids=["newest", "all"],
)
def test_a_run_goes_on_from_what_is_left(damaged, warnings, undisturbed, tmp_path, counted):
    expected, killed = undisturbed
    shutil.copytree(killed, tmp_path / "results")
    for name in damaged:
        (path,) = (tmp_path / "results").glob(f"checkpoints/*/{name}/optimizer.pt")
        truncate(path)
    done = launch(*RUN, f"paths.results={tmp_path / 'results'}", log=tmp_path / "log")
    assert done.code == 0, done.err
    assert [line for line in warnings if line not in done.err] == []
    assert done.err.count("warning") == len(warnings)
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
    """The run starts anew and is killed again. It then uses its new checkpoints, and the damaged ones are gone."""
    expected, killed = undisturbed
    results = tmp_path / "results"
    shutil.copytree(killed, results)
    (run,) = (results / "checkpoints").iterdir()
    truncate(run / "checkpoint-6" / "optimizer.pt")
    truncate(run / "checkpoint-8" / "optimizer.pt")
    before = functools.partial(die_at, "experiments.train.checkpoints.seal", 3)
    assert launch(*RUN, f"paths.results={results}", log=tmp_path / "log", before=before).code == -9
    assert [p.name for p in checkpoints.by_step(run)] == ["checkpoint-2", "checkpoint-4"]
    done = launch(*RUN, f"paths.results={results}", log=tmp_path / "log")
    assert "damaged" not in done.err
    assert outcome(results) == expected
