"""`make base`: the base model of continual pretraining is pretrained once, kept in the cache, and trained further."""

import json

import pytest

from experiments import runner
from experiments.errors import ConfigError
from experiments.spec import compose
from experiments.train import base_models
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
    for name in ("sources", "models/tokenizer-4096-v1.json"):
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
