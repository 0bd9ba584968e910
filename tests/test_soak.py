"""Two hundred cells in one process: what a sweep holds at its end is what it held near its beginning."""

import json
import subprocess
import sys

import pytest

from .conftest import ROOT
from .processes import half_written

CELLS, WARM = 200, 40
# By which memory may grow after cell 40. It was 6 in a hundred cells, and 27 while Hydra kept their configurations.
MEGABYTES = 25
ARGUMENTS = (
    "scale=smoke",
    "logger=none",
    "hardware=cpu",
    "hardware.threads=1",
    "training.steps=4",
    "training.warmup_steps=1",
    "training.log_every=1",
    "training.evaluate_every=4",
    "training.checkpoint_every=2",
    "training.batch_size=2",
    "task.pairs=2",
    "task.eval_pairs=2",
    "protocol.restart_every=2",
)
# Prints, after each cell: resident bytes, open files, living and dead children.
PROBE = """
import json, sys, psutil, run
from experiments import runner
cell, me = runner.run, psutil.Process()

def watched(config):
    record = cell(config)
    children = me.children(recursive=True)
    dead = sum(c.status() == psutil.STATUS_ZOMBIE for c in children)
    print("held", json.dumps([me.memory_info().rss, me.num_fds(), me.num_threads(), len(children), dead]), flush=True)
    return record

runner.run = watched
sys.exit(run.main())
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise("A sweep of two hundred cells in one process holds no more memory, files or processes at its end.")
def test_two_hundred_cells_in_one_process(tmp_path, counted):
    sweep = ["-m", "method=fft,lora,mora,remora", f"seed=range({CELLS // 4})", f"paths.results={tmp_path}", *ARGUMENTS]
    done = subprocess.run([sys.executable, "-c", PROBE, *sweep], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    held = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("held")]
    assert len(held) == CELLS
    memory, files, threads, children, dead = zip(*held, strict=True)
    assert max(memory[-WARM:]) - max(memory[:WARM]) < MEGABYTES * 1e6, [m // 10**6 for m in memory]
    assert max(files[WARM:]) <= files[WARM], files
    assert max(threads[WARM:]) <= threads[WARM], threads
    assert (max(children), max(dead)) == (0, 0)
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*.json")]
    assert len(records) == CELLS
    assert all(r["status"] == "finished" and r["metrics"]["final"] and r["cost"]["seconds"] > 0 for r in records)
    assert half_written(tmp_path) == []
    counted(CELLS, "cells")
