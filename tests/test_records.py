"""The store: whole files or none, one owner a cell, unreadable records named and skipped."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from experiments.errors import ConfigError
from experiments.records import CELL_FIELDS, Record, Store
from experiments.storage import write_json

CELL = dict.fromkeys(CELL_FIELDS) | {"seed": 0}


def record(key: str = "k") -> Record:
    return Record(key=key, name="n", status="finished", cell=CELL, config={})


def test_what_is_written_is_read(tmp_path):
    store = Store(tmp_path)
    path = store.write(record())
    assert path == tmp_path / "runs" / "k.json"
    assert store.read("k") == record()
    assert store.read("other") is None
    assert json.loads(path.read_text())["schema"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 99}', "\x00"])
def test_an_unreadable_record_is_named_and_skipped(text, tmp_path, capsys):
    store = Store(tmp_path)
    store.path("k").parent.mkdir()
    store.path("k").write_text(text)
    assert store.read("k") is None
    assert str(store.path("k")) in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"good": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"bad": float("nan")})
    assert json.loads(path.read_text()) == {"good": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_written_is_a_config_error():
    with (
        pytest.raises(ConfigError, match=r"paths\.results: cannot write to /proc/nowhere"),
        Store("/proc/nowhere").claim("k"),
    ):
        pass


def _count_owners(folder, inside, worst):
    with Store(folder).claim("k"):
        with inside.get_lock():
            inside.value += 1
            worst.value = max(worst.value, inside.value)
        time.sleep(0.05)
        with inside.get_lock():
            inside.value -= 1


@pytest.mark.promise("Of several processes that ask for the same cell at once, one runs it and the others wait for it.")
def test_of_eight_processes_one_at_a_time_owns_a_cell(tmp_path, counted):
    context = multiprocessing.get_context("fork")
    inside, worst = context.Value("i", 0), context.Value("i", 0)
    processes = [context.Process(target=_count_owners, args=(tmp_path, inside, worst)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [p.exitcode for p in processes] == [0] * 8
    assert worst.value == 1
    counted(8, "processes")


def _hold(folder, held):
    with Store(folder).claim("k"):
        held.set()
        time.sleep(60)


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    with Store(tmp_path).claim("k"):
        pass
