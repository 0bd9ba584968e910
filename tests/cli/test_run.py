"""run.py as a user starts it, in a process of its own: what it prints, what it leaves, how it ends."""

import json
import os
import subprocess
import sys
import time

import pytest

from experiments.cli import command
from experiments.tasks.uuid import UuidTask
from experiments.train import callbacks

from ..conftest import ROOT
from ..processes import launch, the_record

SMOKE = ("scale=smoke", "logger=none", "hardware=cpu")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The results folder, the record of each method, and how the process of the sweep ended."""
    results = tmp_path_factory.mktemp("sweep")
    log = tmp_path_factory.mktemp("log") / "sweep"
    done = launch("-m", "method=fft,lora,mora", "task=uuid", *SMOKE, f"paths.results={results}", log=log)
    assert done.code == 0, done.err
    records = [json.loads(p.read_text()) for p in (results / "runs").glob("*.json")]
    return results, {r["cell"]["method"]: r for r in records}, done


def test_a_sweep_leaves_one_record_a_cell(sweep):
    results, records, done = sweep
    assert set(records) == {"fft", "lora", "mora"}
    for method, record in records.items():
        assert record["schema"] == 2
        assert record["status"] == "finished"
        assert record["error"] is None
        measured = {"char_accuracy", "char_accuracy_floor", "key_loss", "value_loss"}
        assert set(record["metrics"]["final"]) == measured
        assert record["key"] + ".json" in done.out
        assert method in done.out
        assert "." not in record["key"]
        # People share records, and the folders of this machine would mean nothing to others.
        assert str(results) not in json.dumps(record)


def test_the_curve_has_step_and_loss_and_the_accuracy_at_its_points(sweep):
    curve = sweep[1]["mora"]["metrics"]["curve"]
    assert [row["step"] for row in curve] == [2, 4, 6, 8, 10, 12]
    assert all(row["loss"] > 0 for row in curve)
    assert [row["step"] for row in curve if "char_accuracy" in row] == [6, 12]
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_the_record_says_where_it_comes_from_and_what_it_cost(sweep):
    record = sweep[1]["mora"]
    assert set(record) >= {"cell", "config", "metrics", "cost", "provenance"}
    assert set(record["cell"]) >= {"method", "rank", "operator", "task", "scale", "model", "learning_rate", "seed"}
    cost = record["cost"]
    assert cost["tokens"] == 12 * 8 * 74
    assert cost["adapter_bytes"] > 4 * cost["trainable_parameters"]
    assert cost["adapter_bytes"] < 4 * cost["trainable_parameters"] + 10_000
    assert 0 < cost["seconds"] < 300
    assert cost["peak_memory_bytes"] > 1e7
    provenance = record["provenance"]
    assert provenance["packages"]["torch"]
    assert provenance["adapter_dtype"] == "float32"
    assert provenance["started_at"] <= provenance["finished_at"]


def test_a_finished_cell_is_not_run_again(sweep):
    results, records, _ = sweep
    path = results / "runs" / f"{records['mora']['key']}.json"
    before = path.stat().st_mtime_ns
    # run.py recognises a finished cell without torch.
    probe = (
        "import sys, run; code = run.main();"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules); sys.exit(code)"
    )
    arguments = ["method=mora", "task=uuid", *SMOKE, f"paths.results={results}"]
    done = subprocess.run([sys.executable, "-c", probe, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "finished before" in done.stdout
    assert str(path) in done.stdout
    assert path.stat().st_mtime_ns == before


def test_the_papers_value_is_printed_or_said_to_be_missing(sweep):
    assert "paper" in sweep[2].out


def fail_at_the_evaluation() -> None:
    UuidTask.evaluate = lambda *_: 1 / 0


def test_a_run_that_fails_leaves_a_record_and_exit_code_1(tmp_path):
    arguments = ["method=fft", *SMOKE, f"paths.results={tmp_path}"]
    done = launch(*arguments, log=tmp_path / "first", before=fail_at_the_evaluation)
    assert done.code == 1
    record = the_record(tmp_path)
    assert record["status"] == "failed"
    traceback = f"failures/{record['key']}.txt"
    assert record["error"] == {"type": "ZeroDivisionError", "message": "division by zero", "traceback": traceback}
    assert done.messages == [f"failed: ZeroDivisionError: division by zero; traceback: {tmp_path / traceback}"]
    text = (tmp_path / traceback).read_text()
    assert text.startswith(f"{record['name']} ({record['key']}) failed at ")
    assert "Traceback (most recent call last)" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")
    # The same command continues from the checkpoint and finishes. The traceback would now mislead, and is gone.
    assert launch(*arguments, log=tmp_path / "second").code == 0
    assert the_record(tmp_path)["status"] == "finished"
    assert list((tmp_path / "failures").iterdir()) == []


def test_a_run_that_diverges_fails_and_says_at_which_step(tmp_path):
    rate = "training.learning_rate=1e30"
    assert launch("method=lora", *SMOKE, f"paths.results={tmp_path}", rate, log=tmp_path / "log").code == 1
    record = the_record(tmp_path)
    assert record["status"] == "failed"
    assert record["error"]["type"] == "FloatingPointError"
    assert "diverged at step" in record["error"]["message"]
    assert record["metrics"]["curve"]


def test_wandb_offline_mirrors_the_record_and_its_failure_fails_nothing(tmp_path):
    arguments = ["method=lora", "scale=smoke", "hardware=cpu"]
    environment = {"WANDB_API_KEY": "", "HOME": str(tmp_path)}
    done = launch(*arguments, f"paths.results={tmp_path / 'a'}", log=tmp_path / "first", environment=environment)
    assert done.code == 0, done.err
    assert list((tmp_path / "a" / "wandb").rglob("*.wandb"))
    blocked = tmp_path / "b"
    blocked.mkdir()
    (blocked / "wandb").write_text("a file where the folder should be")
    done = launch(*arguments, f"paths.results={blocked}", log=tmp_path / "second", environment=environment)
    assert done.code == 0
    assert "W&B failed" in done.err


def test_a_run_leaves_nothing_where_it_was_started(sweep, tmp_path):
    results, _, _ = sweep
    command = [sys.executable, str(ROOT / "run.py"), "-m", "method=mora", *SMOKE, f"paths.results={results}"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert os.listdir(tmp_path) == []


def test_a_log_file_does_not_get_a_line_a_step(capsys):
    with callbacks.bar(total=20, unit="step") as output:
        for _ in range(20):
            time.sleep(0.05)  # on a terminal the bar would have ten updates
            output.update(1)
    assert capsys.readouterr().err.count("step/s") <= 2


def test_runs_in_one_process_name_the_project_once_on_the_path_of_python(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"elsewhere{os.pathsep}{ROOT}")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # set back after the test
    monkeypatch.setattr(command.signals, "handled", list)  # the signals of the tests stay theirs
    command.prepare_environment()
    command.prepare_environment()
    assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}elsewhere"
