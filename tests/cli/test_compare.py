"""What README promises to somebody with own model, data and benchmark: one command, from rows to a page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments.train import base_models, scratch

from ..conftest import ROOT
from ..tasks.test_custom import ADDS, TEMPLATE, sums, write


@pytest.fixture
def own(tmp_path):
    """A folder with a model that has a chat template, rows of chat data, and a task of lm-eval."""
    tokenizer = scratch.byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    base_models.tiny_model().save_pretrained(tmp_path / "my model")
    tokenizer.save_pretrained(tmp_path / "my model")
    write(tmp_path / "rows, chat.jsonl", sums(120))
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    rows = [{"question": f"{i} + {i} is", "choices": [str(2 * i), str(2 * i + 1)], "gold": 0} for i in range(5)]
    (folder / "adds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "adds.yaml").write_text(ADDS)
    return tmp_path


def command(own, *more):
    return [
        *(sys.executable, str(ROOT / "scripts" / "compare.py"), "method=lora,mora", "task=custom", "scale=smoke"),
        *("model=my model", "task.train_file='rows, chat.jsonl'", "task.benchmarks=[adds]"),
        *("task.benchmark_path=benchmarks", "logger=none", "hardware=cpu", "--ranks", "4", "--seeds", "2", *more),
    ]


def compare(own, *more):
    return subprocess.run(command(own, *more), cwd=own, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.promise(
    "A comparison on own data goes from one command to a table, an answer and a page, also after a kill."
)
def test_from_own_rows_to_the_page(own, counted):
    shown = compare(own)
    assert shown.returncode == 0, shown.stderr
    assert "2 cells; at least 8 runs to do" in shown.stdout
    assert "Nothing was run: add --run." in shown.stdout
    assert not (own / "results").exists()

    with subprocess.Popen(
        command(own, "--run"), cwd=own, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        while not list(own.glob("results/runs/*.json")):
            assert first.poll() is None
            time.sleep(0.2)
        os.killpg(first.pid, signal.SIGINT)
    assert first.returncode == 130

    done = compare(own, "--run")
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "cell 1 of 2 (LoRA, r = 4), " in out
    assert out.count("undecided: ") + out.count("better: ") + out.count("worse: ") >= 4
    assert "held-out loss, nats a token: " in out
    (study,) = own.glob("results/studies/*.yaml")
    table = (own / "results" / "tables" / "smoke" / f"{study.stem}.md").read_text()
    for label in ("LoRA, r = 4", "MoRA, r = 4", "held-out loss", "adds"):
        assert label in table
    page = (own / "results" / "report.html").read_text()
    assert "Claims of the paper" not in page
    records = [json.loads(path.read_text()) for path in own.glob("results/runs/*.json")]
    assert all(record["status"] == "finished" for record in records)
    assert all("adds" in record["metrics"]["final"] for record in records)
    counted(1, "comparisons on own data")

    # The runs answer without the file of the study too, and another folder of results can be compared.
    shutil.rmtree(own / "results" / "studies")
    again = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compare.py"), "--results", "results"],
        cwd=own,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert "that differ only in their method" in again.stdout
    assert "MoRA, r = 4 minus LoRA, r = 4" in again.stdout or "MoRA, r = 4 is " in again.stdout
