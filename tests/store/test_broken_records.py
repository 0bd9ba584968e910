"""Thousands of broken records: each reader gives a result or one line, never a traceback."""

import contextlib
import json
import random
import shutil
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

import experiments
from experiments import tasks
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.identity import key_of
from experiments.reuse import export, load
from experiments.store.folder import read_records
from experiments.store.records import Store, from_json
from experiments.train import base_models
from scripts import (
    compare,
    evaluate,
    export_adapter,
    make_figures,
    make_report,
    make_tables,
    migrate_records,
    plan,
    status,
)

from .. import mutations
from ..conftest import ROOT

PATHS = sorted((ROOT / "results" / "runs").glob("*.json")) + sorted(
    (ROOT / "results" / "archive").glob("*/runs/*.json")
)
SCHEMA_1 = ROOT / "tests" / "golden" / "record_schema_1.json"
MUTATIONS, BATCH = 6000, 150
SINGLE = 10  # of each batch: the records that are scored or exported, and those of schema 1


def broken(draw):
    """The file of a record that was changed, as its bytes or as its values; often with the key of what it says now."""
    content = draw.choice(PATHS).read_bytes()
    if draw.random() < 0.3:
        return mutations.damaged(content, draw)
    values = mutations.changed(json.loads(content), draw, draw.choice((1, 1, 2, 4)))
    if isinstance(values.get("identity"), dict) and draw.random() < 0.8:
        values["key"] = key_of(values["identity"])
        cell, seed = values.get("cell"), draw.randrange(10**6)
        if isinstance(cell, dict):  # another seed, so that many changed records stand beside one another
            values["identity"]["seed"] = cell["seed"] = seed
            values["key"] = key_of(values["identity"])
        if isinstance(values.get("config"), dict) and "seed" in values["config"]:
            values["config"]["seed"] = seed
    return json.dumps(values).encode()


def broken_of_schema_1(draw):
    """The same of a record of schema 1."""
    if draw.random() < 0.2:
        return mutations.damaged(SCHEMA_1.read_bytes(), draw)
    values = mutations.changed(json.loads(SCHEMA_1.read_bytes()), draw, draw.choice((1, 1, 2)))
    with contextlib.suppress(ConfigError, KeyError, TypeError, AttributeError):  # settings from which no key follows
        values["config"]["seed"] = values["cell"]["seed"] = draw.randrange(10**6)
        values["key"] = key_of(migrate_records.old_identity(values["config"], values["provenance"]["task_version"]))
    return json.dumps(values).encode()


@pytest.fixture
def without_models(monkeypatch, tmp_path):
    """Scoring and exporting read all that they need of a record, and compute nothing."""

    def no_model(*_, **__):
        raise ConfigError("no model is loaded here")

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / load.ADAPTER_SETTINGS).write_text(json.dumps({"peft_type": "MORA", "base_model_name_or_path": "a/b"}))
    save_file({"a": torch.zeros(1)}, adapter / load.ADAPTER_WEIGHTS)
    monkeypatch.setattr(base_models, "of_run", no_model)
    monkeypatch.setattr(load, "folder_of", lambda record, store: adapter)
    monkeypatch.setattr(load, "score", lambda record, store, config: tasks.of(config).check(config) or {})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise(
    "Any broken record is read, or named in one line, by every reader of records; none ends in a traceback."
)
def test_thousands_of_broken_records(tmp_path, capsys, counted, without_models):
    draw, read, refused, codes = random.Random(0), 0, 0, Counter()

    def call(reader, *arguments, allowed=(0,)):
        capsys.readouterr()
        code = script.guarded(lambda: reader.main([str(a) for a in arguments]))
        name, (out, err) = reader.__name__.removeprefix("scripts."), capsys.readouterr()
        assert code in allowed, (name, arguments, err[-500:])
        assert code != 2 or len(err.splitlines()) == 1, (name, arguments, err[-500:])
        codes[name, code] += 1
        return out, err

    for start in range(0, MUTATIONS, BATCH):
        results = tmp_path / str(start)
        runs = results / "runs"
        runs.mkdir(parents=True)
        keys = []
        for i in range(BATCH):
            content = broken(draw)
            try:
                key = from_json(content).key
                read += 1
            except ValueError:
                key = f"{i:016x}"
                refused += 1
            (runs / f"{key}.json").write_bytes(content)
            Store(results).read(key)
            keys.append(key)
        records, problems = read_records(results)
        assert records
        assert all(len(problem.splitlines()) == 1 and len(problem) < 1000 for problem in problems)
        assert len(experiments.frame(results)) == len(records)
        # The page takes longest: one half of the records is shown by each of its two scripts.
        call(compare if start // BATCH % 2 else make_report, "--results", results, allowed=(0, 2))
        call(make_tables, "--results", results)
        call(plan, "--results", results, "--study", "table2")
        call(status, "--results", results)
        if start % 1500 == 0:  # pictures take long
            call(make_figures, "--results", results)
        for i, key in enumerate([record.key for record in records][:SINGLE] + draw.sample(keys, SINGLE)):
            call(evaluate, key, "--results", results, allowed=(0, 1, 2))
            form, out = export.FORMATS[i % len(export.FORMATS)], tmp_path / "out"
            call(export_adapter, key, out, "--results", results, "--format", form, allowed=(0, 2))
            shutil.rmtree(out, ignore_errors=True)
        for i in range(SINGLE):
            (runs / f"{i}.json").write_bytes(content := broken_of_schema_1(draw))
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # no file may have this name
                (runs / f"{i}.json").rename(runs / f"{json.loads(content)['key']:.16}.json")
        out, err = call(migrate_records, "--results", results, allowed=(0, 1))
        assert all(line.startswith("left as it is: ") for line in err.splitlines())
        codes["a record of schema 1", 0] += out.count(" -> ")
        shutil.rmtree(results)
    assert read > MUTATIONS / 20
    assert refused > MUTATIONS / 5
    for reader in ("evaluate", "export_adapter"):  # refused often, and often read to the end
        assert codes[reader, 2] > MUTATIONS / 100, codes
        assert codes[reader, 0] + codes[reader, 1] > MUTATIONS / 100, codes
    assert codes["a record of schema 1", 0] > MUTATIONS / 100, codes
    counted(read, "broken records that are read")
    counted(refused, "broken records that are named")
