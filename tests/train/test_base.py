"""`make base`: the base model of continual pretraining is pretrained once, kept in the cache, and trained further."""

import json

import pytest

from experiments import files, runner
from experiments.data import sources
from experiments.errors import ConfigError
from experiments.spec import compose
from experiments.train import base_models, scratch
from scripts import pretrain_base

from ..conftest import compose as composed

FEW_STEPS = ("training.steps=2", "training.warmup_steps=1", "training.evaluate_every=2", "training.checkpoint_every=2")
OWN = ("logger=none", "hardware=cpu", "hardware.threads=1", "training.log_every=1")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_base_is_kept_and_trained_further(tmp_path, monkeypatch, capsys):
    """The steps are few; the text, the model and the evaluation are those of the laptop scale."""
    cache = tmp_path / "cache"
    shared = composed().paths.cache_folder
    cache.mkdir()
    for name in ("sources", f"models/tokenizer-4096-v{scratch.TOKENIZER_VERSION}.json"):
        if (shared / name).exists():  # what was fetched or learned before is not fetched and learned again
            (cache / name).parent.mkdir(exist_ok=True)
            (cache / name).symlink_to(shared / name)
    monkeypatch.setenv("MORA_CACHE", str(cache))
    composition = compose.composition
    monkeypatch.setattr(compose, "composition", lambda arguments: composition([*arguments, *OWN, *FEW_STEPS]))
    assert pretrain_base.main([]) == 0
    assert "perplexity" in capsys.readouterr().out
    origin = json.loads((base_models.base_folder(cache) / "origin.json").read_text())
    assert pretrain_base.main([]) == 0
    assert "exists already" in capsys.readouterr().out
    monkeypatch.setattr(compose, "composition", composition)
    results = f"paths.results={tmp_path / 'results'}"
    record = runner.run(composed("method=lora", "task=finance", "scale=laptop", *OWN, *FEW_STEPS, results))
    assert record.status == "finished", record.error
    assert {"heldout_perplexity", "trained_perplexity", "general_perplexity"} <= record.metrics["final"].keys()
    assert origin["run"] != record.key
    weights = base_models.base_folder(cache) / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(ConfigError, match="is damaged: remove the folder, and run `make base` again"):
        base_models.pretrained_base(cache)


def damaged(path):
    """Change the last byte of a file, and give the bytes that stood there."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


@pytest.mark.promise("A base model in the cache, of which any file is damaged, is refused or made again.")
def test_a_damaged_file_of_the_base_is_refused(tmp_path, counted):
    trained = tmp_path / "trained"
    base_models.tiny_model().save_pretrained(trained)
    folder = base_models.keep_base(trained, scratch.byte_tokenizer(), "0" * 16, tmp_path)
    assert base_models.pretrained_base(tmp_path) == folder
    names = sorted(path.name for path in folder.iterdir())
    assert {"config.json", "model.safetensors", "origin.json", "tokenizer.json"} <= {*names}
    for name in names:
        whole = damaged(folder / name)
        with pytest.raises(ConfigError, match="is damaged: remove the folder, and run `make base` again"):
            base_models.pretrained_base(tmp_path)
        (folder / name).write_bytes(whole)
        assert base_models.pretrained_base(tmp_path) == folder
    counted(len(names), "damaged cache files")
    # A base that version 0.1.0 has kept is known by its weights.
    base_models._sums_file(folder).unlink()
    assert base_models.pretrained_base(tmp_path) == folder
    for name in ("origin.json", "model.safetensors"):
        whole = damaged(folder / name)
        with pytest.raises(ConfigError, match="is damaged: remove the folder, and run `make base` again"):
            base_models.pretrained_base(tmp_path)
        (folder / name).write_bytes(whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.promise("A base model in the cache, of which any file is damaged, is refused or made again.")
def test_a_damaged_file_of_smollm2_is_converted_again(tmp_path, capsys, counted):
    shared = composed().paths.cache_folder
    sources.fetch("smollm2-135m", shared)
    (tmp_path / "sources").symlink_to(shared / "sources")
    folder = base_models.smollm2(tmp_path)
    assert "converted again" not in capsys.readouterr().err
    first = {path.name: files.sha256(path) for path in folder.iterdir()}
    damaged(folder / "tokenizer.json")
    assert base_models.smollm2(tmp_path) == folder
    assert f"warning: {folder} is damaged" in capsys.readouterr().err
    assert {path.name: files.sha256(path) for path in folder.iterdir()} == first
    base_models.smollm2(tmp_path)
    assert "converted again" not in capsys.readouterr().err
    counted(1, "damaged cache files")
