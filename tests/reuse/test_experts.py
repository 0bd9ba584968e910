"""An adapter on the fused weights of a mixture of experts is exported as a merged model, and refused as a LoRA."""

from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from experiments.errors import ConfigError
from experiments.reuse import export, load
from experiments.store.records import Store
from experiments.train import scratch
from mora import MoraConfig

TOKENS = torch.arange(3, 43).view(2, 20)


@pytest.fixture
def model(monkeypatch) -> PeftModel:
    """A Mixtral with random adapters, which takes the place of the model of a record."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    base = MixtralForCausalLM(MixtralConfig(vocab_size=64, initializer_range=0.15, **sizes, **heads))
    targets = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
    model = get_peft_model(base, MoraConfig(r=2, operator="sharing", init_weights=False, **targets)).eval()
    monkeypatch.setattr(load, "restore", lambda record, store: (model, scratch.byte_tokenizer()))
    return model


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def test_the_merged_model_computes_the_same(model, tmp_path):
    expected = logits(model)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), expected, atol=1e-2)
    export.merged(SimpleNamespace(name="a run"), None, tmp_path, "float32")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected, atol=1e-4, rtol=0)


def test_there_is_no_lora(model, trained, tmp_path):
    results, records = trained
    with pytest.raises(ConfigError, match=r"only the layers of a MoRA adapter convert, not .* --format merged"):
        export.converted(records["mora"], Store(results), tmp_path, export.LoraLimits())
