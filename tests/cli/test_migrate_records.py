"""Records of schema 1 become records of schema 2 that their cells still find."""

import json

import pytest

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
