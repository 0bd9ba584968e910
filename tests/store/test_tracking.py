"""W&B holds the same values as the record: the tests read the offline file of a real run."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from experiments import runner
from experiments.identity import identity_of
from experiments.store.records import Record
from experiments.store.wandb_mirror import grouping, reachable
from experiments.study.printed import tables_of

from ..conftest import ROOT, compose
from ..processes import launch, the_record
from .wandb_file import messages


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """The record of an offline run, and the messages that W&B wrote about the run."""
    folder = tmp_path_factory.mktemp("mirrored")
    environment = {"WANDB_API_KEY": "", "WANDB_MODE": "offline", "HOME": str(folder)}
    arguments = ["method=remora", "scale=smoke", "hardware=cpu", f"paths.results={folder}"]
    done = launch(*arguments, log=folder / "log", environment=environment)
    assert done.code == 0, done.err
    assert "W&B failed" not in done.err
    (file,) = (folder / "wandb").rglob("*.wandb")
    return the_record(folder), list(messages(file))


def of_kind(wandb_messages, kind: str) -> list:
    return [getattr(m, kind) for m in wandb_messages if m.WhichOneof("record_type") == kind]


def values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_the_run_is_filed_by_its_cell(mirrored):
    record, wandb_messages = mirrored
    (run,) = of_kind(wandb_messages, "run")
    assert run.run_id == record["key"]
    assert run.display_name == record["name"]
    assert run.run_group == "uuid-smoke-remora-r8"
    assert run.job_type == "remora"
    assert set(run.tags) == {"uuid", "smoke", "remora", "r8", "sharing", "seed0"}


def test_the_configuration_is_the_records(mirrored):
    record, wandb_messages = mirrored
    (run,) = of_kind(wandb_messages, "run")
    settings = values(run.config.update)
    assert {name: settings[name] for name in record["config"]} == record["config"]
    assert set(settings) - set(record["config"]) == {"_wandb"}


def test_every_row_of_the_curve_is_there(mirrored):
    record, wandb_messages = mirrored
    rows = [values(h.item) for h in of_kind(wandb_messages, "history")]
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows] == record["metrics"]["curve"]
    assert [row["_step"] for row in rows] == [row["step"] for row in record["metrics"]["curve"]]


def test_the_summary_ends_as_the_records_final_metrics_and_cost(mirrored):
    record, wandb_messages = mirrored
    summary: dict = {}
    for update in of_kind(wandb_messages, "summary"):
        summary |= values(update.update)
    final, cost = record["metrics"]["final"], record["cost"]
    assert {name: summary[name] for name in final} == final
    assert {name: summary[f"cost/{name}"] for name in cost} == cost
    assert summary["status"] == "finished"


def record_of(*overrides: str) -> Record:
    config = compose("scale=smoke", "hardware=cpu", *overrides)
    return runner.record_of(config, identity_of(config))


def test_runs_that_differ_in_rate_and_seed_share_a_group():
    records = [record_of("method=fft"), record_of("method=fft", "seed=1", "training.learning_rate=3e-4")]
    assert {grouping(record, [])["group"] for record in records} == {"uuid-smoke-fft"}
    assert grouping(record_of("method=fft", "scale=laptop"), [])["group"] == "uuid-laptop-fft"


def test_two_cells_never_share_a_group():
    alphas = [record_of("method=lora", f"method.alpha={alpha}") for alpha in (16, 64)]
    assert [grouping(record, [])["group"] for record in alphas] == ["uuid-smoke-lora-r8", "uuid-smoke-lora-r8-alpha=64"]


@pytest.mark.parametrize(
    ("overrides", "tables"),
    [
        (["method=fft"], {"table2"}),
        (["method=mora", "method.rank=8"], {"table2", "table4"}),
        (["task=biomed", "method=lora", "method.rank=32"], {"table1", "table6"}),
        (["method=lora", "method.rank=5"], set()),
    ],
)
def test_tags_name_every_table_that_a_run_stands_in(overrides, tables):
    record = record_of(*overrides)
    tags = grouping(record, tables_of(record.identity))["tags"]
    assert {tag for tag in tags if tag.startswith("table")} == tables


def test_a_server_that_takes_no_connection_cannot_be_reached(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert reachable(address)
    assert not reachable(address)
    assert not reachable("https://no.such.host.invalid")
    assert not reachable("http://[")
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    assert reachable(address)  # W&B's client finds out


@pytest.mark.slow
@pytest.mark.promise("Without a network, W&B costs a run seconds: its copy stays local.")
def test_without_a_network_the_copy_stays_local(tmp_path, counted):
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "WANDB_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in names} | {"HOME": str(tmp_path)}
    environment |= {"WANDB_API_KEY": "0123456789" * 4, "WANDB_BASE_URL": "http://127.0.0.1:1"}
    command = [sys.executable, str(ROOT / "run.py"), "method=none", "scale=smoke", "hardware=cpu"]
    start = time.monotonic()
    done = subprocess.run(
        [*command, f"paths.results={tmp_path}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert "W&B cannot be reached, so this run's copy stays local" in done.stderr
    assert "W&B failed" not in done.stderr
    assert list((tmp_path / "wandb").rglob("*.wandb"))
    assert seconds < 80  # without the check: W&B's 90 seconds and those of the run
    counted(1, "runs without a network")
