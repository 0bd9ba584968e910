"""Thousands of broken records: each reader gives a result or one line, never a traceback."""

import json
import random

import pytest

from experiments.cli import script
from experiments.identity import key_of
from experiments.store.folder import read_records
from experiments.store.records import Store, from_json
from scripts import make_figures, make_report, make_tables, plan

from .. import mutations
from ..conftest import ROOT

PATHS = sorted((ROOT / "results" / "runs").glob("*.json")) + sorted(
    (ROOT / "results" / "archive").glob("*/runs/*.json")
)
MUTATIONS, BATCH = 6000, 150


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
    return json.dumps(values).encode()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise(
    "Any broken record is read, or named in one line, by every reader of records; none ends in a traceback."
)
def test_thousands_of_broken_records(tmp_path, capsys, counted):
    draw, read, refused = random.Random(0), 0, 0
    for start in range(0, MUTATIONS, BATCH):
        results = tmp_path / str(start)
        runs = results / "runs"
        runs.mkdir(parents=True)
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
        records, problems = read_records(results)
        assert records
        assert all(len(problem.splitlines()) == 1 and len(problem) < 1000 for problem in problems)
        readers = {make_tables: [], make_report: [], plan: ["--study", "table2"]}
        if start % 1500 == 0:  # pictures take long
            readers[make_figures] = []
        for reader, arguments in readers.items():
            capsys.readouterr()
            code = script.guarded(lambda: reader.main(["--results", str(results), *arguments]))  # noqa: B023
            assert code == 0, (reader.__name__, capsys.readouterr().err[-500:])
    assert read > MUTATIONS / 20
    assert refused > MUTATIONS / 5
    counted(read, "broken records that are read")
    counted(refused, "broken records that are named")
