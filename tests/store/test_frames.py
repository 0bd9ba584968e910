"""All records of a folder as one pandas frame."""

import subprocess
import sys

import pandas
import pytest

import experiments
from experiments.store.folder import ConfigError
from experiments.store.records import Store

from .. import synthetic
from ..conftest import ROOT


def write(results, name, status="finished", **sections):
    record = synthetic.bare(f"run-{name}", status, **sections)
    Store(results).write(record)
    return record


def test_a_record_is_a_row(tmp_path):
    config = {"model": "tiny", "training": {"steps": 5, "schedule": "linear"}, "method": {"target_modules": ["q_proj"]}}
    metrics = {"final": {"char_accuracy": 50.0, "loss": 0.5}, "curve": [{"step": 1, "loss": 2.0}]}
    first = write(tmp_path, "a", config=config, metrics=metrics, cost={"seconds": 3.0})
    second = write(tmp_path, "b", status="failed", config={"training": {"steps": 7}})
    frame = experiments.frame(tmp_path)
    assert list(frame["key"]) == sorted([first.key, second.key])
    frame = frame.sort_values("name")
    key, *others = (column.partition(".")[0] for column in frame.columns)
    assert [key, *dict.fromkeys(others)] == ["key", "name", "status", "cell", "metrics", "cost", "config"]
    assert {c for c in frame.columns if c.startswith("cell.")} == {f"cell.{name}" for name in first.cell}
    assert list(frame["status"]) == ["finished", "failed"]
    assert list(frame["config.training.steps"]) == [5, 7]
    a, b = (row for _, row in frame.iterrows())
    assert (a["name"], a["metrics.loss"], a["cost.seconds"], a["config.model"]) == ("run-a", 0.5, 3.0, "tiny")
    assert a["config.method.target_modules"] == ["q_proj"]
    assert pandas.isna(b[["metrics.loss", "config.model"]]).all()


def test_an_unreadable_record_is_named_and_left_out(tmp_path, capsys):
    record = write(tmp_path, "a")
    (tmp_path / "runs" / "b.json").write_text("{")
    assert list(experiments.frame(str(tmp_path))["key"]) == [record.key]
    assert capsys.readouterr().err.startswith("warning: b.json is not a readable record")


def test_a_folder_without_records_gives_a_frame_without_rows(tmp_path):
    frame = experiments.frame(tmp_path)
    assert (len(frame), list(frame.columns)) == (0, ["key", "name", "status"])
    with pytest.raises(ConfigError, match="is not a folder"):
        experiments.frame(tmp_path / "nowhere")


def test_the_import_of_the_package_stays_cheap():
    probe = "import sys, experiments; sys.exit(bool({'pandas', 'torch', 'hydra', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0
