"""Local copies of the hub's data sets: how they are read, what is refused, and how they are fetched."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import runner, tasks
from experiments.data import copies, hub
from experiments.errors import ConfigError
from experiments.identity import identity_of, key_of
from experiments.train import base_models
from scripts import prepare_data

from .test_hub import PUBLISHED, publish
from .tokenizers_of import byte_level


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with copies that have a few rows, and a hub that has as many."""
    for name, configurations in PUBLISHED.items():
        publish(tmp_path / "copies", name, configurations)
    rows = {
        name: {c: {split: len(rows) for split, rows in splits.items()} for c, splits in configurations.items()}
        for name, configurations in PUBLISHED.items()
    }
    monkeypatch.setattr(hub, "ROWS", rows)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return str(tmp_path / "copies")


def test_every_data_set_is_read_from_its_copy(folder):
    assert len(hub.tulu(folder)) == len(hub.metamath(folder)) == len(hub.gsm8k(folder)) == 1
    assert len(hub.competition_math(folder)) == 7
    assert hub.mmlu("dev", folder)[0].text == "dev?"
    assert list(hub.c4("train", folder)) == ["train 0", "train 1", "train 2"]
    assert list(hub.pubmed(folder)) == ["abstract"]
    assert list(hub.financial_news(folder)) == [("Shares rise", "They rose.")]
    assert len(hub.medicine("RCT", folder)) == len(hub.finance("FPB", folder)) == len(hub.finance_open("NER", folder))


@pytest.mark.parametrize("place", ["MetaMathQA", "meta-math/MetaMathQA.jsonl", "MetaMathQA.jsonl"])
def test_a_copy_is_a_folder_or_a_file(place, folder):
    whole = Path(folder, hub.METAMATH)
    copy = Path(folder, place)
    if copy.suffix:
        (whole / "default-train.jsonl").rename(copy)
    else:
        whole.rename(copy)
    for path in whole.glob("*"):
        path.unlink()
    if whole.exists():
        whole.rmdir()
    assert hub.metamath(folder)[0][0]["content"] == "1 + 1?"


def test_a_copy_of_another_length_is_refused(folder):
    path = Path(folder, hub.METAMATH, "default-train.jsonl")
    path.write_text(path.read_text() * 3)
    with pytest.raises(ConfigError, match=r"is no copy of meta-math/MetaMathQA: 3 rows in train, and the hub has 1;"):
        hub.metamath(folder)


def test_a_missing_copy_is_one_line_that_says_how_to_get_it(tmp_path):
    with pytest.raises(ConfigError) as caught:
        hub.metamath(str(tmp_path))
    assert str(caught.value) == (
        f"task.data_dir: {tmp_path} has no copy of meta-math/MetaMathQA; to get one: "
        f"python scripts/prepare_data.py --paper meta-math/MetaMathQA --copies {tmp_path}"
    )


def test_a_copy_that_is_not_whole_is_one_line(folder):
    Path(folder, hub.GSM8K, "README.md").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded as openai/gsm8k .* its README\.md too: python") as caught:
        hub.gsm8k(folder)
    assert "\n" not in str(caught.value)


def test_some_files_are_enough_for_a_reader_that_stops_in_time(folder, monkeypatch):
    monkeypatch.setitem(hub.ROWS, hub.C4, {"en": {"train": 1_000}})
    assert list(itertools.islice(hub.c4("train", folder), 3)) == ["train 0", "train 1", "train 2"]
    with pytest.raises(ConfigError, match="the copy of allenai/c4 ends after 3 rows of train, and the run reads on"):
        list(hub.c4("train", folder))


def test_the_rows_of_the_test_sets_are_those_of_the_metrics():
    assert sum(split["test"] for split in hub.ROWS[hub.MATH].values()) == tasks.metric("math", "math").questions
    assert hub.ROWS[hub.GSM8K]["main"]["test"] == tasks.metric("math", "gsm8k").questions
    assert hub.ROWS[hub.MMLU]["all"]["test"] == tasks.metric("instruct", "mmlu_0shot").questions


FEW = ("task=math", "task.data=hub", "task.heldout_rows=1", "task.probe_documents=2", "task.drop_overlap=false")


def test_a_copy_has_the_key_and_the_rows_of_the_hub(folder, smoke, monkeypatch):
    path = Path(folder, hub.METAMATH, "default-train.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] * 2
    path.unlink()
    path.with_name("README.md").unlink()
    # The hub's file has no split in its name, so `datasets` reads every JSON file of the folder.
    path.with_name("MetaMathQA-395K.json").write_text(json.dumps(rows))
    monkeypatch.setitem(hub.ROWS, hub.METAMATH, {None: {"train": 2}})
    Path(folder, hub.METAMATH, hub.ORIGIN).write_text(json.dumps({"commit": "5a1b"}))
    from_hub, from_copies = smoke(*FEW), smoke(*FEW, f"task.data_dir={folder}")
    assert key_of(identity_of(from_copies)) == key_of(identity_of(from_hub))
    prepared = tasks.get("math").prepare(from_copies, byte_level())
    assert "copy of meta-math/MetaMathQA at 5a1b" in prepared.notes["sources"]
    assert "copy of allenai/c4" in prepared.notes["sources"]
    monkeypatch.chdir(folder)  # `datasets` reads a folder that has the name of a data set before it asks the hub
    assert tasks.get("math").prepare(from_hub, byte_level()).fingerprint == prepared.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("task=math", "task.data_dir=."), "task.data_dir holds copies of the hub's data: it needs task.data=hub"),
        ((*FEW, "task.data_dir=nowhere"), "task.data_dir must be a folder, got 'nowhere'"),
    ],
)
def test_a_folder_that_would_not_be_read_is_refused(arguments, message, smoke):
    with pytest.raises(ConfigError, match=message):
        smoke(*arguments)


def test_data_are_asked_for_before_the_weights_are_loaded(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(base_models, "of_run", lambda *a, **k: pytest.fail("the weights were loaded"))
    with pytest.raises(ConfigError, match=f"task.data_dir: {tmp_path} has no copy of meta-math/MetaMathQA"):
        runner.run(smoke(*FEW, f"task.data_dir={tmp_path}"))
    assert not list(tmp_path.rglob("*.json"))


class FakeHub:
    """Has every data set of the paper; keeps the calls."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: self)

    def dataset_info(self, name):
        return SimpleNamespace(sha=f"commit of {name}")

    def snapshot_download(self, name, *, repo_type="model", revision=None, local_dir=None, **options):
        if options.pop("local_files_only", False):
            if name not in [call[0] for call in self.calls]:
                raise FileNotFoundError(name)
            return
        self.calls.append((name, repo_type, revision, options["allow_patterns"]))
        if local_dir:
            publish(local_dir, ".", PUBLISHED[name])


def test_the_script_fetches_what_the_paper_needs(tmp_path, monkeypatch, capsys):
    fake = FakeHub(monkeypatch)
    arguments = ["--paper", "--copies", str(tmp_path / "copies")]
    assert prepare_data.main([*arguments, "--check"]) == 1
    assert fake.calls == []
    assert prepare_data.main(arguments) == 0
    assert prepare_data.main([*arguments, "--check"]) == 0
    assert f"task.data_dir={tmp_path / 'copies'}" in capsys.readouterr().out
    assert [call[0] for call in fake.calls] == [*copies.SOURCES]
    assert {*PUBLISHED} == {call[0] for call in fake.calls if call[1] == "dataset"}
    (c4,) = (call for call in fake.calls if call[0] == hub.C4)
    assert c4[2] == "commit of allenai/c4"
    assert "en/c4-train.000[0-4]*.json.gz" in c4[3]
    assert json.loads((tmp_path / "copies" / hub.C4 / hub.ORIGIN).read_text())["commit"] == "commit of allenai/c4"
    assert hub.origins((hub.C4,), str(tmp_path / "copies")) == ["copy of allenai/c4 at commit of allenai/c4"]


def test_every_data_set_that_a_task_reads_can_be_fetched():
    for name in ("instruct", "math", "biomed", "finance"):
        assert {*tasks.get(name).data_sets, hub.C4} <= {*copies.SOURCES}


def test_without_a_network_the_script_says_what_to_do(tmp_path, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise ConnectionError("offline mode is enabled\nfurther lines")

    monkeypatch.setattr("huggingface_hub.HfApi", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    arguments = ["--paper", "--copies", str(tmp_path), "meta-math/MetaMathQA", "meta-llama/Llama-2-7b-hf"]
    assert prepare_data.main(arguments) == 1
    data, model = capsys.readouterr().err.splitlines()
    assert data.startswith("error: meta-math/MetaMathQA cannot be fetched (offline mode is enabled); run this where")
    assert "gated: accept it on the model's page, then set HF_TOKEN: https://huggingface.co/meta-llama" in model
    assert not list(tmp_path.iterdir())


def test_a_copy_made_by_hand_is_seen(folder):
    assert copies.state(hub.C4, Path(folder)) == "by hand"
