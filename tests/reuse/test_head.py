"""An adapter on the head of a model, which can share its weight with the embedding, is loaded again and exported."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from experiments.errors import ConfigError
from experiments.reuse import export, load
from experiments.spec import counting, shapes
from experiments.store.records import Store
from experiments.train import scratch

TOKENS = torch.arange(3, 43).view(2, 20)
TARGETS = ["lm_head", "q_proj"]


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def tied(request) -> bool:
    return request.param


def base(tied: bool):
    shape = replace(shapes.NAMED["tiny"], tied=tied)
    return scratch.llama(shape, 0, bos=0, eos=1, pad=2, spread=scratch.head_spread(shape)).eval()


@pytest.fixture(params=["mora", "lora"])
def config(request, smoke):
    """A run whose method adapts the head too."""
    config = smoke(f"method={request.param}")
    method = config.method.replace(target_modules=TARGETS, peft=config.method.peft | {"target_modules": TARGETS})
    return config.replace(method=method)


def adapted(config, tied: bool) -> PeftModel:
    # PEFT warns that it cannot tie the adapters of two tied modules.
    with pytest.warns(UserWarning, match="tie_word_embeddings=True") if tied else contextlib.nullcontext():
        return get_peft_model(base(tied), counting.adapter_config(config.method)).eval()


@pytest.fixture
def trained_head(config, tied, tmp_path):
    """A model with random adapters, and the folder in which PEFT saved them."""
    model = adapted(config, tied)
    for name, parameter in model.named_parameters():
        if "mora_M" in name or "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    with pytest.warns(UserWarning, match="Setting `save_embedding_layers` to `True`"):
        model.save_pretrained(tmp_path / "adapter")
    return model, tmp_path / "adapter"


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def test_it_is_loaded_to_be_scored_again(config, tied, trained_head):
    model, folder = trained_head
    assert "base_model.model.lm_head.base_layer.weight" in load_file(folder / load.ADAPTER_WEIGHTS)
    again = adapted(config, tied)
    assert not torch.allclose(logits(again), logits(model), atol=1e-3)
    load.load_trained(again, config, folder)
    assert torch.equal(logits(again), logits(model))


def test_an_adapter_of_other_layers_is_refused(config, tied, trained_head):
    _, folder = trained_head
    settings = counting.adapter_config(config.method)
    settings.target_modules = {"q_proj"}
    with pytest.raises(ConfigError, match=r"does not hold the adapter of this model: .*lm_head.* is in only one"):
        load.load_trained(get_peft_model(base(tied), settings), config, folder)


def test_the_merged_model_computes_the_same(config, tied, trained_head, monkeypatch, tmp_path):
    model, _ = trained_head
    expected = logits(model)
    monkeypatch.setattr(load, "restore", lambda record, store: (model, scratch.byte_tokenizer()))
    embedding = model.get_input_embeddings().weight.clone()
    export.merged(SimpleNamespace(name="a run"), None, tmp_path, "float32")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(exported), expected, atol=1e-5, rtol=0)
    assert torch.equal(exported.get_input_embeddings().weight, embedding)
    assert not exported.config.tie_word_embeddings


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_the_lora_computes_the_same(tied, trained, smoke, monkeypatch, tmp_path):
    results, records = trained
    config = smoke("method=mora", "method.operator=sharing")
    config = config.replace(
        method=config.method.replace(peft=config.method.peft | {"target_modules": TARGETS, "init_weights": False})
    )
    model = get_peft_model(base(tied), counting.adapter_config(config.method)).eval()
    expected = logits(model)
    monkeypatch.setattr(load, "restore", lambda record, store: (model, None))
    export.converted(records["mora"], Store(results), tmp_path, export.LoraLimits())
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base(tied), tmp_path)), expected, atol=1e-5, rtol=0)
