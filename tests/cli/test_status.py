"""scripts/status.py beside real runs, and the page that it draws."""

import contextlib
import dataclasses
import io
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from experiments import paper
from experiments.cli import dashboard
from experiments.identity import key_of
from experiments.store.overview import Overview
from experiments.store.records import Record, Store
from experiments.study.cells import Protocols
from scripts import status

from .. import synthetic
from ..conftest import ROOT
from ..processes import SMOKE, begin, half_written

LIMIT = 240


def shown(results, *arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert status.main(["--results", str(results), "--watch", *arguments]) == 0  # no terminal: it prints once
    return out.getvalue()


def line_of(text: str, part: str) -> str:
    (line,) = (line for line in text.splitlines() if part in line)
    return line


@pytest.mark.slow
def test_the_page_beside_a_running_sweep(tmp_path):
    """The first cell finishes at once. The second cell is longer than the test, and is killed."""
    results = tmp_path / "results"
    long = ("training.steps=4000", "training.evaluate_every=4000", "training.checkpoint_every=4000")
    process = begin("-m", "method=none,lora", *SMOKE, *long, f"paths.results={results}", log=tmp_path / "log")
    try:
        text, deadline = "", time.monotonic() + LIMIT
        while not re.search(r"-lora-.* [1-9]\d* of 4000 ", text):
            assert process.is_alive()
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
            text = shown(results) if results.is_dir() else ""
    finally:
        process.kill()
        process.join()
    assert text.startswith(f"{results}: 1 running, 0 failed, 0 interrupted, 1 finished\n")
    running = line_of(text, "-lora-")
    assert re.search(r" \d+ (s|min) ", running)
    assert f", process {process.pid}, since " in running
    assert "char_accuracy " in line_of(text, "-none-")
    text = shown(results)
    assert text.startswith(f"{results}: 0 running, 0 failed, 1 interrupted, 1 finished\n")
    assert "interrupted, last seen " in line_of(text, "-lora-")
    assert half_written(results) == []


def write(store: Store, name: str, status: str, **changes) -> Record:
    record = synthetic.bare(f"run-{name}", status, **changes)
    store.write(record)
    return record


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path)
    error = {"type": "ValueError", "message": "a [red]fault[/red] :smile:\n" * 3, "traceback": "failures/bad.txt"}
    write(store, "bad", "failed", error=error)
    for i in range(12):
        metrics = {"final": {"char_accuracy": 10.0 + i}, "curve": []}
        cost, finished = {"seconds": 60.0 * i}, {"finished_at": f"2026-01-01T00:00:{i:02}Z"}
        write(store, f"good{i}", "finished", metrics=metrics, cost=cost, provenance=finished)
    (tmp_path / "runs" / "broken.json").write_text("{")
    return tmp_path


def test_the_page_names_reasons_files_results_and_what_is_missing(folder):
    out = io.StringIO()
    cells = [("run-bad", synthetic.bare("run-bad").key), ("run-new", "new")]
    Console(file=out, markup=False, emoji=False, width=500).print(dashboard.page(Overview(folder), cells))
    text = out.getvalue()
    assert text.startswith(f"{folder}: 0 running, 1 failed, 0 interrupted, 12 finished, 1 missing\n")
    assert "ValueError: a [red]fault[/red] :smile: a [red]fault" in text  # the text of a message, not a colour
    assert str(folder / "failures" / f"{synthetic.bare('run-bad').key}.txt") in text
    assert line_of(text, "run-new").split() == ["run-new", "new"]
    assert line_of(text, "run-good11").split() == ["run-good11", "char_accuracy", "21", "11", "min"]
    assert "run-good1 " not in text  # only the last ten
    assert "... and 2 more" in text
    assert "warning: broken.json is not a readable record" in text


def test_the_page_shows_what_a_study_lacks(tmp_path):
    (tmp_path / "runs").mkdir()
    cell = "LoRA, r = 8, learning rate 0.003, seed 0"
    before = shown(tmp_path, "--table", "2", "--scale", "smoke")
    count = int(re.search(r"(\d+) missing\n", before)[1])
    key = line_of(before, cell).split()[-1]
    setting = Protocols("smoke").setting(paper.Cell("uuid", "lora", 8))
    failed = synthetic.record(setting, 0.003, 0, status="failed", name=f"run-{key}")
    assert failed.key == key
    Store(tmp_path).write(failed)
    after = shown(tmp_path, "--study", "table2", "--scale", "smoke")
    assert f"1 failed, 0 interrupted, 0 finished, {count - 1} missing\n" in after
    assert key in before
    assert key not in after.partition("missing\n")[2].replace(line_of(after, f"run-{key}"), "")


def test_a_task_that_is_not_here_has_no_result(folder):
    record = synthetic.bare("run-other")
    identity = record.identity | {"task": {"name": "somebodys"}}
    cell = record.cell | {"task": "somebodys"}
    Store(folder).write(dataclasses.replace(record, key=key_of(identity), identity=identity, cell=cell))
    out = io.StringIO()
    Console(file=out, width=200).print(dashboard.page(Overview(folder)))
    assert "13 finished" in out.getvalue()


def test_watching_on_a_terminal_redraws_until_ctrl_c(folder):
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "scripts" / "status.py"), "--results", str(folder), "--watch"]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    drawn, deadline = b"", time.monotonic() + LIMIT
    try:
        while b"13 finished" not in drawn:
            assert time.monotonic() < deadline
            drawn += os.read(ours, 4096)
            late = synthetic.bare("run-late")
            if b"12 finished" in drawn and not (folder / "runs" / f"{late.key}.json").exists():
                Store(folder).write(late)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal has no other end any more
            while drawn := os.read(ours, 4096):
                assert b"Traceback" not in drawn
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        os.close(ours)
