"""W&B has what the record has: these tests read the offline file of a real run."""

import json
import os
import subprocess
import sys

import pytest

from experiments.store.records import Record
from experiments.store.wandb_mirror import grouping

from ..conftest import ROOT
from .wandb_file import messages


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """The record of an offline run, and the messages in its W&B file."""
    folder = tmp_path_factory.mktemp("mirrored")
    environment = os.environ | {"WANDB_API_KEY": "", "WANDB_MODE": "offline", "HOME": str(folder)}
    arguments = ["method=remora", "scale=smoke", "hardware=cpu", f"paths.results={folder}"]
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "W&B failed" not in done.stderr
    (path,) = (folder / "runs").glob("*.json")
    (file,) = (folder / "wandb").rglob("*.wandb")
    return json.loads(path.read_text()), list(messages(file))


def of_kind(found, kind: str) -> list:
    return [getattr(m, kind) for m in found if m.WhichOneof("record_type") == kind]


def values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_the_run_is_filed_by_its_cell(mirrored):
    record, found = mirrored
    (run,) = of_kind(found, "run")
    assert run.run_id == record["key"]
    assert run.display_name == record["name"]
    assert run.run_group == "uuid-smoke-remora-r8"
    assert run.job_type == "remora"
    assert set(run.tags) == {"uuid", "smoke", "remora", "r8", "sharing", "seed0"}


def test_the_configuration_is_the_records(mirrored):
    record, found = mirrored
    (run,) = of_kind(found, "run")
    sent = values(run.config.update)
    assert {name: sent[name] for name in record["config"]} == record["config"]
    assert set(sent) - set(record["config"]) == {"_wandb"}


def test_every_row_of_the_curve_is_there(mirrored):
    record, found = mirrored
    rows = [values(h.item) for h in of_kind(found, "history")]
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows] == record["metrics"]["curve"]
    assert [row["_step"] for row in rows] == [row["step"] for row in record["metrics"]["curve"]]


def test_the_summary_ends_as_the_records_final_metrics_and_cost(mirrored):
    record, found = mirrored
    summary: dict = {}
    for update in of_kind(found, "summary"):
        summary |= values(update.update)
    final, cost = record["metrics"]["final"], record["cost"]
    assert {name: summary[name] for name in final} == final
    assert {name: summary[f"cost/{name}"] for name in cost} == cost
    assert summary["status"] == "finished"


CELL = {"task": "uuid", "scale": "smoke", "method": "fft", "rank": None, "operator": None, "seed": 0}


def record(name: str, **cell) -> Record:
    return Record(key="k", name=name, status="finished", cell=CELL | cell, config={}, identity={})


def test_runs_that_differ_in_rate_and_seed_share_a_group():
    names = ("uuid-smoke-fft-lr0.001-seed0", "uuid-smoke-fft-lr3e-05-seed1")
    assert {grouping(record(name), ())["group"] for name in names} == {"uuid-smoke-fft"}
    assert grouping(record("uuid-laptop-fft-lr0.001-seed0"), ())["group"] != "uuid-smoke-fft"


def test_tags_name_every_table_that_a_run_stands_in():
    mora = record("uuid-smoke-mora-r4-lr0.003-seed0", method="mora", rank=4, operator="sharing")
    tags = grouping(mora, ["table2", "table4"])["tags"]
    assert tags == ["table2", "table4", "uuid", "smoke", "mora", "r4", "sharing", "seed0"]
