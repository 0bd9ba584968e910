"""Records of schema 1 become records of schema 2 that their cells still find."""

import copy
import json

import pytest

from experiments.cli import script
from experiments.errors import ConfigError
from experiments.identity import cell_key_of, identity_of, key_of
from experiments.store.records import Store
from scripts import migrate_records

from ..conftest import ROOT, compose

# A record of schema 1: a run of MoRA at smoke scale, with only the settings that the migration reads.
OLD = json.loads((ROOT / "tests" / "golden" / "record_schema_1.json").read_text())


def old_results(tmp_path, record=OLD):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{record['key']}.json").write_text(json.dumps(record))
    (tmp_path / "models" / record["key"]).mkdir(parents=True)
    return tmp_path


def test_a_record_gets_the_key_that_the_same_command_has_today(tmp_path, capsys):
    results = old_results(tmp_path)
    assert migrate_records.main(["--results", str(results)]) == 0
    (path,) = (results / "runs").iterdir()
    record = Store(results).read(path.stem)
    # The protocol and the version of the task have changed since then, so the command sets the old values.
    then = ("model=tiny", "method.rank=8", "task.pairs=160", "task.eval_pairs=160", "training.batch_size=16")
    command = compose("method=mora", "task=uuid", "scale=laptop", "hardware=cpu", "training.learning_rate=3e-3", *then)
    today = identity_of(command) | {"task_version": 1}
    assert record.key == key_of(record.identity) == path.stem == key_of(today)
    assert cell_key_of(record.identity) == cell_key_of(today)
    assert record.name.startswith("uuid-laptop-mora-r8-")
    assert (record.metrics, record.cost) == (OLD["metrics"], OLD["cost"])
    assert [folder.name for folder in (results / "models").iterdir()] == [record.key]
    assert f"{OLD['key']} -> {record.key}" in capsys.readouterr().out
    assert migrate_records.main(["--results", str(results)]) == 0  # a second migration has nothing to do


def test_a_record_whose_key_does_not_follow_from_its_settings_is_named_and_left(tmp_path, capsys):
    odd = OLD | {"config": OLD["config"] | {"seed": 99}}
    results = old_results(tmp_path, odd)
    assert migrate_records.main(["--results", str(results)]) == 1
    assert "left as it is" in capsys.readouterr().err
    assert [path.stem for path in (results / "runs").iterdir()] == [OLD["key"]]
    with pytest.raises(ConfigError, match="its key is not that of its settings"):
        migrate_records.migrated(odd)


def changed(section, **changes):
    """A record of schema 1 whose key is that of its changed settings."""
    record = copy.deepcopy(OLD)
    record["config"][section] |= changes
    record["key"] = key_of(migrate_records.old_identity(record["config"], record["provenance"]["task_version"]))
    return json.dumps(record)


UNREADABLE = {
    "no JSON": ("{", "EOF while parsing"),
    "no object": ("[]", "it is no record of schema 1 or 2"),
    "a newer schema": ('{"schema": 99}', "it is no record of schema 1 or 2"),
    "no settings": ('{"schema": 1}', "key: Field required"),
    "no provenance": (json.dumps(OLD | {"provenance": 3}), "provenance: "),
    "a section that is no mapping": (json.dumps(OLD | {"config": OLD["config"] | {"task": []}}), "config.task: "),
    "a method that is gone": (changed("method", name="gone"), "gone"),
    "a setting that is gone": (changed("training", gone=3), "training.gone: "),
    "what is no record of schema 2": (json.dumps(OLD | {"cost": {"seconds": "x"}}), "cost.seconds: "),
}


@pytest.mark.promise("A migration names each file that it cannot migrate in one line, and migrates the others.")
@pytest.mark.parametrize("what", UNREADABLE)
def test_a_file_that_cannot_be_migrated_is_named_and_the_others_are_migrated(what, tmp_path, capsys, counted):
    text, words = UNREADABLE[what]
    runs = old_results(tmp_path) / "runs"
    key = json.loads(text)["key"] if '"key"' in text else "0" * 16
    path = runs / f"{key}.json"
    path.with_stem("f" * 16).write_text(json.dumps(OLD))  # after all others, and with the name of another key
    path.write_text(text)
    assert script.guarded(lambda: migrate_records.main(["--results", str(tmp_path)])) == 1
    out, err = capsys.readouterr()
    lines = sorted(err.splitlines())
    assert [line.split(": ")[:2] for line in lines] == sorted(
        ["left as it is", str(runs / f"{stem}.json")] for stem in (key, "f" * 16)
    )
    assert words in next(line for line in lines if path.name in line)
    assert path.read_text() == text
    assert out.startswith(f"{OLD['key']} -> ") == (key != OLD["key"])
    counted(1, "odd files")


@pytest.mark.promise("A migration overwrites no record, and can be repeated after an interruption.")
def test_a_record_that_is_there_already_is_not_overwritten(tmp_path, capsys, counted):
    results = old_results(tmp_path)
    record = migrate_records.migrated(OLD)
    new, old = Store(results).path(record["key"]), Store(results).path(OLD["key"])
    new.write_text(json.dumps(record | {"cost": record["cost"] | {"seconds": 1e6}}))
    before = new.read_bytes()
    assert migrate_records.main(["--results", str(results)]) == 1
    assert f"{new.name} exists already" in capsys.readouterr().err
    assert new.read_bytes() == before
    assert old.is_file()
    new.write_text(json.dumps(record))  # a kill after the new record was written, before the old one was removed
    assert migrate_records.main(["--results", str(results)]) == 0
    assert list(new.parent.iterdir()) == [new]
    assert [folder.name for folder in (results / "models").iterdir()] == [record["key"]]
    counted(2, "records")


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    assert script.guarded(lambda: migrate_records.main(["--results", str(tmp_path / "none")])) == 2
    assert f"--results: {tmp_path / 'none'} is not a folder" in capsys.readouterr().err
