"""The store: a file is whole or absent, one process runs a cell, an unreadable record is named and skipped."""

import copy
import dataclasses
import errno
import json
import multiprocessing
import os
import random
import re
import signal
import time

import pytest

from experiments.cli import script
from experiments.errors import ConfigError
from experiments.files import write_json
from experiments.identity import cell_key_of, cell_of, group_of, identity_of, key_of
from experiments.spec.parse import from_record
from experiments.store import schema
from experiments.store.folder import read_records
from experiments.store.records import Record, Store
from scripts import status

from ..conftest import ROOT, compose
from ..processes import SMOKE, begin, half_written, launch, outcome, printed, the_record

CELL = {
    **{"method": "mora", "rank": 8, "operator": "sharing", "task": "uuid", "scale": "smoke", "model": "tiny"},
    **{"learning_rate": 0.001, "seed": 0},
}
COST = {"trainable_parameters": 1, "seconds": 1.0}
METRICS = {"final": {"char_accuracy": 50.0}, "curve": []}
METHOD = {"name": "mora", "rank": 8, "peft": {"peft_type": "MORA", "operator": "sharing"}}


def record(seed: int = 0) -> Record:
    sections = {"method": METHOD, "task": {"name": "uuid"}, "training": {"learning_rate": 0.001}}
    identity = {**sections, "hardware": {}, "scale": "smoke", "seed": seed, "model": "tiny-v1"}
    cell, metrics = CELL | {"seed": seed}, copy.deepcopy(METRICS)
    return Record(key_of(identity), "n", "finished", cell, {}, identity, metrics, cost=COST)


KEY = record().key


def test_what_is_written_is_read(tmp_path):
    store = Store(tmp_path)
    path = store.write(record())
    assert path == tmp_path / "runs" / f"{KEY}.json"
    assert store.read(KEY) == record()
    assert store.read("other") is None
    assert json.loads(path.read_text())["schema"] == schema.VERSION


UNREADABLE = (
    "A record that is not JSON or has a newer schema is named in a warning and skipped, and the other records are read."
)


@pytest.mark.promise(UNREADABLE)
@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 99}', "\x00", "[" * 100_000])
def test_an_unreadable_record_is_named_and_skipped(text, tmp_path, capsys, counted):
    refused(tmp_path, text.encode(), "", capsys)
    counted(1, "unreadable records")


def refused(results, text, words, capsys):
    """The file is named and not used, by a run and by the readers of the folder; other records are read."""
    store = Store(results)
    store.write(record(seed=1))
    store.path(KEY).write_bytes(text)
    assert store.read(KEY) is None
    warning = capsys.readouterr().err
    records, problems = read_records(results)
    assert records == [record(seed=1)]
    assert [p.split()[0] for p in problems] == [f"{KEY}.json"]
    for message in (warning, *problems):
        assert f"{KEY}.json" in message
        assert words in message
        assert len(message.splitlines()) == 1


def values(**changes):
    """The file of a record with other values."""
    return json.dumps(dataclasses.asdict(record()) | changes).encode()


def identified(**changes):
    """The file of a record with another identity, and with the key of this identity."""
    identity = record().identity | changes
    return values(identity=identity, key=key_of(identity))


def of_instruct(**final):
    """The file of a record of a task whose headline has a stand-in."""
    identity = record().identity | {"task": {"name": "instruct"}}
    metrics = {"final": final, "curve": []}
    return values(identity=identity, key=key_of(identity), cell=CELL | {"task": "instruct"}, metrics=metrics)


LONG = 10**4000
ODD = {
    "a section that is no mapping": (values(config=[]), "config: "),
    "settings that are no mapping": (values(config={"training": 3}), "config.training: "),
    "an identity without a section": (values(identity={}), "identity.method: "),
    "infinity": (values().replace(b'"seconds": 1.0', b'"seconds": 1e999'), "seconds: a number beyond"),
    "a number whose square overflows": (values(cost=COST | {"seconds": 1e308}), "seconds: a number beyond"),
    "an integer of thousands of digits": (values(cost=COST | {"seconds": LONG}), "seconds: a number beyond"),
    "an integer of too many digits": (values().replace(b'"seconds": 1.0', b'"seconds": 1' + b"0" * 9000), "number out"),
    "a list as key": (values(key=[1]), "key: "),
    "half a character": (values(name="\ud800"), "hex escape"),
    "no cost": (values(cost={}), "cost.trainable_parameters is missing"),
    "a text as metric": (values(metrics={"final": {"char_accuracy": "9"}, "curve": []}), "metrics.final.char_accuracy"),
    "true as metric": (values(metrics={"final": {"char_accuracy": True}, "curve": []}), "metrics.final.char_accuracy"),
    "a text in the curve": (values(metrics=METRICS | {"curve": [{"step": 1, "loss": "x"}]}), "metrics.curve.0.loss"),
    "a step that is no integer": (values(metrics=METRICS | {"curve": [{"step": 0.5}]}), "has no step"),
    "a headline that is not finite": (values(metrics={"final": {"char_accuracy": None}, "curve": []}), "char_accuracy"),
    "a stand-in that is not finite": (
        of_instruct(mmlu_5shot=1.0, answer_bits_per_byte=None),
        "and answer_bits_per_byte is no finite number",
    ),
    "no headline": (values(metrics={"final": {}, "curve": []}), "metrics.final has no char_accuracy"),
    "a headline of another task": (values(metrics={"final": {"perplexity": 2.0}, "curve": []}), "has no char_accuracy"),
    "another status": (values(status="done"), "status: "),
    "a scale that is a path": (values(cell=CELL | {"scale": "../.."}), "cell.scale: "),
    "another task": (values(cell=CELL | {"task": "none"}), "cell.task is 'none'"),
    "the cell of another run": (values(cell=CELL | {"seed": 3}), "cell.seed is 3, and its identity says 0"),
    "the operator of another run": (values(cell=CELL | {"operator": "rotation"}), "cell.operator is 'rotation', and"),
    "the model of another run": (values(cell=CELL | {"model": "owner/name"}), "cell.model is 'owner/name', and"),
    "a model of the hub of another run": (
        identified(model="owner/name"),
        "cell.model is 'tiny', and its identity says",
    ),
    "an identity whose model is no text": (identified(model=3), "identity.model: "),
    "an adapter that is no mapping": (identified(method=METHOD | {"peft": 3}), "identity.method.peft: "),
    "an adapter of no kind": (identified(method=METHOD | {"peft": {}}), "identity.method.peft.peft_type: "),
    "added scores that are no list": (values(provenance={"added": 3}), "provenance.added: "),
    "added scores without names": (values(provenance={"added": [{}]}), "provenance.added.0.scores: "),
    "the identity of another run": (values(identity=record(seed=2).identity), "is not that of its identity"),
    "the key of another file": (values(**dataclasses.asdict(record(seed=2))), f"{record(seed=2).key}.json"),
    "a learning rate of zero": (values(cell=CELL | {"learning_rate": 0}), "cell.learning_rate"),
    "an error without a type": (values(status="failed", error={"message": "x"}), "error.type"),
    "a control character": (values(provenance={"a": "\x1b[31m"}), "a: a text with a control character"),
    "a control character in a name": (values(cost=COST | {"\x9b31m": 1.0}), "a text with a control character"),
    "a name of two lines": (values(name="a\nb"), "name: "),
    "deep nesting": (values(provenance={"a": json.loads("[" * 100 + "]" * 100)}), "within one another"),
}


def test_a_cell_with_the_operator_of_the_methods_file_is_read(tmp_path):
    """So wrote an earlier version where `method.peft.operator` was set alone. The cell of today has this operator."""
    run = compose("method=mora", "method.rank=8", "task=uuid", "scale=smoke", "method.peft.operator=rotation")
    assert cell_of(run)["operator"] == identity_of(run)["method"]["peft"]["operator"] == "rotation"
    identity = identity_of(run)
    earlier = cell_of(run) | {"operator": run.method.setting("operator")}
    assert earlier["operator"] == "sharing"
    written = Record(key_of(identity), "n", "finished", earlier, run.for_record(), identity, METRICS, COST)
    Store(tmp_path).write(written)
    assert read_records(tmp_path)[1] == []
    written.cell["operator"] = "truncation"
    Store(tmp_path).write(written)
    assert "cell.operator is 'truncation', and its identity says 'rotation'" in read_records(tmp_path)[1][0]


@pytest.mark.promise("A record that breaks its schema is named with the first fault and skipped.")
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_is_named_and_skipped(odd, tmp_path, capsys, counted):
    refused(tmp_path, *ODD[odd], capsys)
    counted(1, "odd records")


def test_a_file_that_is_too_large_for_a_record_is_not_read(tmp_path, capsys):
    Store(tmp_path).write(record(seed=1))
    with open(Store(tmp_path).path(KEY), "wb") as file:
        os.truncate(file.fileno(), 1 << 40)  # no memory could hold it
    assert Store(tmp_path).read(KEY) is None
    (problem,) = read_records(tmp_path)[1]
    assert "it has 1,099,511,627,776 bytes, and a record has at most" in problem
    assert problem.split(": ")[1] in capsys.readouterr().err


@pytest.mark.promise("No control character of a record or of its file's name reaches the terminal.")
def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys, counted):
    changed = record(seed=1)
    changed.name, changed.status, changed.error = "a\x1b[31m", "failed", {"type": "E\x9b", "message": "b\x07"}
    Store(tmp_path).write(changed)
    assert Store(tmp_path).read(changed.key).name == r"a\x1b[31m"  # what we write ourselves is written with escapes
    (tmp_path / "runs" / f"{KEY}.json").write_bytes(values(name="c\x1b[31m"))
    (tmp_path / "runs" / "d\x1b[31m.json").write_bytes(values())
    assert [r.key for r in script.records(tmp_path)] == [changed.key]
    assert script.guarded(lambda: status.main(["--results", str(tmp_path)])) == 0
    out, err = capsys.readouterr()
    assert r"E\x9b" in out
    assert r"d\x1b[31m.json" in err
    assert [c for c in out + err if not c.isprintable() and c != "\n"] == []
    counted(4, "texts with control characters")


@pytest.mark.promise("If two files hold the same key, both are named and neither is used.")
def test_two_files_with_one_key(tmp_path, counted):
    store = Store(tmp_path)
    for seed in (0, 1):
        store.write(record(seed))
    better = dataclasses.replace(record(), metrics={"final": {"char_accuracy": 99.9}, "curve": []})
    (tmp_path / "runs" / "copy.json").write_text(json.dumps(dataclasses.asdict(better)))
    records, problems = read_records(tmp_path)
    assert records == [record(seed=1)]
    (problem,) = problems
    assert "copy.json" in problem
    assert f"{KEY}.json" in problem
    counted(1, "pairs of files")


def test_a_record_that_json_cannot_hold_is_written_so_that_it_is_read(tmp_path):
    """Paths may hold half characters, and a loss may be infinite."""
    written = record()
    written.config = {"model": "/models/\udcff", "x": [float("inf"), 1e300]}
    Store(tmp_path).write(written)
    assert Store(tmp_path).read(KEY).config == {"model": "/models/\\udcff", "x": [None, None]}


@pytest.mark.promise(
    "If an unreadable record stands where a run writes its own, the run keeps the unreadable file under another name."
)
def test_an_unreadable_record_is_kept_aside(tmp_path, counted):
    """A newer version may have written the record, and its result must not be lost."""
    arguments = ["method=none", *SMOKE, f"paths.results={tmp_path / 'results'}"]
    assert launch(*arguments, log=tmp_path / "log").code == 0
    (path,) = (tmp_path / "results" / "runs").iterdir()
    newer = path.read_text().replace('"schema": 2', '"schema": 3')
    path.write_text(newer)
    done = launch(*arguments, log=tmp_path / "log")
    assert done.code == 0
    assert len(done.messages) == 1
    assert f"{path} is not a readable record (schema 3, this version reads 2" in done.messages[0]
    assert json.loads(path.read_text())["schema"] == schema.VERSION
    assert path.with_suffix(".unreadable").read_text() == newer
    counted(1, "records of a newer schema")


@pytest.mark.promise(
    "A run whose record exists but cannot be read from the disk ends, and does not overwrite the record."
)
def test_a_record_that_the_disk_does_not_give(tmp_path, counted):
    """A folder stands in the place of the record, because root could read any file."""
    arguments = ["method=none", *SMOKE, f"paths.results={tmp_path / 'results'}"]
    path = Store(tmp_path / "results").path(key_of(identity_of(compose(*arguments))))
    path.mkdir(parents=True)
    done = launch(*arguments, log=tmp_path / "log")
    assert done.code == 2
    assert len(done.messages) == 1
    assert str(path) in done.messages[0]
    assert path.is_dir()
    counted(1, "unreadable records")


@pytest.mark.promise("A write that fails leaves the old file unchanged, and no other file beside it.")
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
        Store("/proc/nowhere").claim(KEY),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_a_config_error(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ConfigError, match="cannot lock a file in"), Store(tmp_path).claim(KEY):
        pass


def _count_owners(folder, inside, worst):
    with Store(folder).claim(KEY):
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


FREE_LOCK = "The lock of a process that dies is free at once, and the half-written files of the process are removed."


def _hold(folder, held):
    with Store(folder).claim(KEY):
        held.set()
        time.sleep(60)


@pytest.mark.promise(FREE_LOCK)
def test_the_claim_of_a_dead_process_is_taken_over(tmp_path, counted):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    half = tmp_path / "runs" / f".{KEY}.json.abc.tmp"
    half.write_text("{")
    other = half.with_name(".other.json.abc.tmp")
    other.touch()
    with Store(tmp_path).claim(KEY):
        assert not half.exists()
        assert other.exists()  # the process that writes this file may be alive
    counted(1, "kills")


@pytest.mark.promise("Of several processes that ask for the same cell at once, one runs it and the others wait for it.")
def test_of_eight_runs_of_a_cell_one_does_the_work(tmp_path, counted):
    arguments = ["method=lora", *SMOKE, f"paths.results={tmp_path / 'results'}"]
    logs = [tmp_path / f"log{i}" for i in range(8)]
    processes = [begin(*arguments, log=log) for log in logs]
    for process in processes:
        process.join(240)
    assert [p.exitcode for p in processes] == [0] * 8
    done = [printed(0, log) for log in logs]
    (worker,) = (d for d in done if "finished before" not in d.out)
    assert "trainable parameters" in worker.out
    for other in done:
        assert other is worker or re.fullmatch(r"(cell \w+ is being run by .+; waiting\n)?", other.err)
    assert the_record(tmp_path / "results")["status"] == "finished"
    counted(8, "processes")


@pytest.mark.slow
@pytest.mark.promise(FREE_LOCK)
def test_of_eight_runs_whose_owner_is_killed_again_and_again_one_does_the_work(tmp_path, counted):
    """Four owners die one after the other, each after its first checkpoint. The others get the undisturbed result."""
    own = ["method=remora", *SMOKE, "training.checkpoint_every=2"]
    assert launch(*own, f"paths.results={tmp_path / 'undisturbed'}", log=tmp_path / "log").code == 0
    results = tmp_path / "results"
    processes = [begin(*own, f"paths.results={results}", log=tmp_path / f"log{i}") for i in range(8)]
    killed: set[int] = set()
    for kill in range(1, 5):
        deadline = time.monotonic() + 240
        while not list(results.glob(f"checkpoints/*/checkpoint-{2 * kill}")) or owner(results) in (None, *killed):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        killed.add(pid := owner(results))
        os.kill(pid, signal.SIGKILL)
    for process in processes:
        process.join(240)
    assert sorted(p.exitcode for p in processes) == [-signal.SIGKILL] * 4 + [0] * 4
    assert outcome(results) == outcome(tmp_path / "undisturbed")
    assert half_written(results) == []
    counted(4, "kills")


def owner(results) -> int | None:
    """The process that runs the only cell in `results`."""
    (lock,) = (results / "locks").iterdir()
    match = re.match(r"process (\d+) ", lock.read_text())
    return int(match[1]) if match else None


def _write_again_and_again(folder, seed):
    """Write records of very different sizes. In each record two parts must agree."""
    store, draw = Store(folder), random.Random(seed)
    while True:
        rows = draw.choice([1, 10, 5000])
        one = record()
        one.metrics = {"final": {"char_accuracy": 50.0, "rows": rows}, "curve": [{"step": i} for i in range(rows)]}
        store.write(one)


@pytest.mark.promise("A reader always sees a whole record, whatever happens to the process that writes the record.")
def test_a_reader_never_sees_half_a_record(tmp_path, capsys, counted):
    """One process writes, is killed at random and started again, while this process reads in a loop."""
    context, draw, store, reads, kills = multiprocessing.get_context("fork"), random.Random(0), Store(tmp_path), 0, 12
    store.write(record())
    for seed in range(kills):
        process = context.Process(target=_write_again_and_again, args=(tmp_path, seed))
        process.start()
        until = time.monotonic() + draw.uniform(0.02, 0.3)
        while time.monotonic() < until:
            one = store.read(KEY)
            assert one.metrics["final"].get("rows", 0) == len(one.metrics["curve"])
            records, problems = read_records(tmp_path)
            assert (len(records), problems) == (1, [])
            reads += 2
        process.kill()
        process.join(30)
    assert capsys.readouterr().err == ""
    with store.claim(KEY):
        assert os.listdir(tmp_path / "runs") == [f"{KEY}.json"]
    counted(reads, "reads")
    counted(kills, "kills")


RUNS = sorted((ROOT / "results" / "runs").glob("*.json"))
ARCHIVED = sorted((ROOT / "results" / "archive").glob("*/runs/*.json"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_committed_record_is_found_by_its_configuration(path):
    values = json.loads(path.read_text())
    assert key_of(values["identity"]) == values["key"] == path.stem
    assert identity_of(from_record(values["config"])) == values["identity"]


def test_names_of_committed_records_are_unique():
    names = [json.loads(path.read_text())["name"] for path in RUNS]
    assert len(set(names)) == len(names)


def test_runs_of_one_group_differ_in_rate_and_seed_alone():
    groups = {}
    for path in RUNS:
        values = json.loads(path.read_text())
        groups.setdefault(group_of(values["name"]), set()).add(cell_key_of(values["identity"]))
    assert all(len(cells) == 1 for cells in groups.values())
    assert len({cell for cells in groups.values() for cell in cells}) == len(groups)


def test_an_archived_record_has_the_key_of_its_identity():
    for path in ARCHIVED:
        values = json.loads(path.read_text())
        assert key_of(values["identity"]) == values["key"] == path.stem
    assert len(ARCHIVED) > 150
