"""A sweep of two hundred cells in one process: it holds no more at its end than near its start."""

import json
import subprocess
import sys

import pytest

from .conftest import ROOT
from .processes import half_written

CELLS, WARM = 200, 40
# The most by which memory may grow after cell 40. In a hundred cells it grew by 6 MB, and by 27 MB while Hydra kept the
# configurations of all cells.
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
# After each cell, prints the resident bytes, open files, threads, children and dead children of the process. Threads
# of jemalloc do not count: Arrow brings this allocator, which starts a thread for each processor when it wants.
PROBE = """
import json, sys, psutil, run
from contextlib import suppress
from pathlib import Path
from experiments import runner
cell, me = runner.run, psutil.Process()

def threads():
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has just ended
            names.append(path.read_text().strip())
    return me.num_threads() - names.count("jemalloc_bg_thd")

def watched(config):
    record = cell(config)
    children = me.children(recursive=True)
    dead = sum(c.status() == psutil.STATUS_ZOMBIE for c in children)
    print("held", json.dumps([me.memory_info().rss, me.num_fds(), threads(), len(children), dead]), flush=True)
    return record

runner.run = watched
sys.exit(run.main())
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise(
    "A sweep of 200 cells in one process holds no more memory, files or processes at its end than near its start."
)
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
