"""A cell that runs in two processes gives the same weights to the bit, and records that differ in times and memory."""

import pytest

from ..processes import SMOKE, launch, outcome, the_record

CELLS = [*((method, "uuid") for method in ("fft", "lora", "dora", "mora", "remora")), ("mora", "pretrain")]
# `code` says whether the checkout is clean. The counts that this test writes change the checkout.
TIMES = {
    "cost": ("seconds", "tokens_per_second", "peak_memory_bytes"),
    "provenance": ("started_at", "finished_at", "code", "load"),
}


def without_times(record: dict) -> dict:
    for section, names in TIMES.items():
        for name in names:
            del record[section][name]
    return record


@pytest.mark.slow
@pytest.mark.promise(
    "Two runs of a cell, on one machine and one number of threads, give the same record except for times and memory."
)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("method", "task"), CELLS)
def test_two_runs_give_one_result(method, task, threads, tmp_path, counted):
    for name in ("one", "two"):
        arguments = [f"method={method}", f"task={task}", *SMOKE, f"hardware.threads={threads}"]
        done = launch(*arguments, f"paths.results={tmp_path / name}", log=tmp_path / "log")
        assert done.code == 0, done.err
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
    assert without_times(the_record(tmp_path / "one")) == without_times(the_record(tmp_path / "two"))
    counted(2, "runs")
