"""The singular values of the change that a run made to the weights."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.errors import ConfigError
from experiments.measure import update_spectrum
from mora import MoraConfig
from mora.spectrum import spectra

CONFIGS = {
    "lora": LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "down_proj"]),
    "mora": MoraConfig(r=2, init_weights=False, target_modules=["q_proj", "down_proj"]),
}
SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_spectrum_is_that_of_the_update_and_not_of_its_rounding(config, dtype):
    """A merge into bf16 rounds each entry. With a small update, the rounding has most of the singular values."""
    torch.manual_seed(0)
    start = LlamaForCausalLM(LlamaConfig(vocab_size=48, **SIZES)).to(dtype)
    model = get_peft_model(copy.deepcopy(start), copy.deepcopy(config))
    for name, parameter in model.named_parameters():
        if "lora_" in name or "mora_" in name:
            parameter.data.mul_(1e-2)
    layers = {"layers.0.self_attn.q_proj": "q_proj", "layers.0.mlp.down_proj": "down_proj"}
    modules = dict(model.get_base_model().model.named_modules())
    expected = spectra((name, modules[name].get_delta_weight("default").detach().float()) for name in layers)
    found = update_spectrum.of_run(model, start)
    for kind in layers.values():
        assert found[kind] == pytest.approx(expected[kind], rel=1e-3)
    assert found["k_proj"]["above"] == 0


@pytest.mark.filterwarnings("ignore:.*`lora_bias=True` was passed but the targeted layer")
def test_an_update_that_cannot_be_merged_is_refused_before_training():
    config = LlamaConfig(vocab_size=48, **SIZES)
    bias = LoraConfig(r=2, lora_bias=True, target_modules=["q_proj"])
    with pytest.raises(ConfigError, match=r"training.record_spectrum: .* cannot merge that of q_proj: .* no bias"):
        update_spectrum.check(get_peft_model(LlamaForCausalLM(config), bias))


def test_a_check_that_needs_more_memory_refuses_no_setting(monkeypatch):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=48, **SIZES)), copy.deepcopy(CONFIGS["lora"]))

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("peft.tuners.lora.Linear.merge", fail)
    with pytest.raises(torch.OutOfMemoryError):
        update_spectrum.check(model)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_check_leaves_the_model_as_it_was(config):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=48, **SIZES)), copy.deepcopy(config))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update_spectrum.check(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(getattr(layer, "merged", False) for layer in model.modules())
