"""MoraConfig: which layers are adapted, which values are refused, and with which messages."""

import re

import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

from mora import MoraConfig, MoraLinear, operators


def names(case, **options):
    """The names of the adapted layers."""
    return set(case.layers(case.adapted(**options)))


def test_every_target_is_adapted(case):
    assert names(case)
    assert {name.rpartition(".")[2] for name in names(case)} == set(case.targets)


def test_all_linear_adapts_all_but_the_head(case):
    adapted = names(case, target_modules="all-linear")
    assert adapted >= names(case)
    assert not any("lm_head" in name for name in adapted)


def test_the_default_targets_are_the_default_targets_of_lora(case):
    defaults = {"llama": {"q_proj", "v_proj"}, "gpt2": {"c_attn"}, "t5": {"q", "v"}}[case.architecture]
    assert {name.rpartition(".")[2] for name in names(case, target_modules=None)} == defaults


def test_excluded_modules_are_not_adapted(case):
    module = case.targets[0]
    expected = {name for name in names(case) if not name.endswith(f".{module}")}
    assert names(case, exclude_modules=[module]) == expected
    assert names(case, exclude_modules=rf".*\.{module}") == expected


def test_only_the_blocks_of_layers_to_transform_are_adapted(case):
    # Not only "1": T5 also numbers the layers inside a block.
    expected = {name for name in names(case) if re.search(r"\.(layers|h|block)\.1\.", name)}
    pattern = {"llama": "layers", "gpt2": "h", "t5": "block"}[case.architecture]
    assert names(case, layers_to_transform=[1], layers_pattern=pattern) == expected
    assert names(case, layers_to_transform=1, layers_pattern=pattern) == expected
    assert expected


@pytest.mark.parametrize("blocks", [range(1, 2), (1,), {1}])
def test_the_indices_of_blocks_are_saved(blocks, tmp_path):
    MoraConfig(layers_to_transform=blocks).save_pretrained(tmp_path)
    assert MoraConfig.from_pretrained(tmp_path).layers_to_transform == [1]


def test_targets_may_be_a_regex(case):
    target = case.targets[0]
    assert names(case, target_modules=rf".*\.{target}") == names(case, target_modules=[target])


def test_a_reloaded_adapter_has_the_same_layers(case, tmp_path):
    pattern = {"llama": "layers", "gpt2": "h", "t5": "block"}[case.architecture]
    model = case.adapted(layers_to_transform=[1], layers_pattern=pattern)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path)
    assert set(case.layers(loaded)) == set(case.layers(model))
    assert torch.equal(case.logits(loaded), case.logits(model))


def test_printing_shows_operator_and_matrix(case):
    text = repr(case.adapted(mora_dropout=0.1))
    layer = next(iter(case.layers(case.adapted()).values()))
    q = layer.mora_operator["default"].r_hat
    assert "mora.MoraLinear" in text
    assert f"{q}x{q}" in text
    assert "Dropout(p=0.1" in text


def test_fewer_parameters_than_lora(case):
    mora = case.adapted(r=4).get_nb_trainable_parameters()[0]
    lora = get_peft_model(
        case.base(),
        LoraConfig(r=4, target_modules=case.targets, fan_in_fan_out=case.architecture == "gpt2"),
    ).get_nb_trainable_parameters()[0]
    assert 0.8 * lora < mora <= lora


@pytest.mark.parametrize(("bias", "count"), [("none", 0), ("all", 2), ("mora_only", 1)])
def test_bias(bias, count, tmp_path):
    def base():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))

    model = get_peft_model(base(), MoraConfig(r=1, target_modules=["0"], bias=bias))
    biases = {name for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")}
    assert len(biases) == count
    with torch.no_grad():
        for name in biases:
            model.get_parameter(name).add_(1.0)
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 6)
    assert torch.equal(PeftModel.from_pretrained(base(), tmp_path)(x), model(x))


def test_inference_mode_trains_nothing(llama):
    assert not any(p.requires_grad for p in llama.adapted(inference_mode=True).parameters())


def test_the_options_reach_the_operator():
    config = MoraConfig(r=2, operator="sharing", in_groups="contiguous", out_groups="strided")
    layer = MoraLinear(nn.Linear(12, 9), "default", config)
    q = operators.square_size(12, 9, 2)
    expected = operators.build("sharing", 12, 9, q, in_groups="contiguous", out_groups="strided")
    assert layer.mora_operator["default"] == expected
    config = MoraConfig(r=2, operator="rotation", wrap=False, surplus="fold")
    expected = operators.build("rotation", 12, 9, 6, wrap=False, surplus="fold")
    assert config.build_operator(12, 9) == expected


def test_a_pattern_gives_some_layers_another_rank(case, tmp_path):
    target = case.targets[-1]
    model = case.adapted(rank_pattern={target: 5})
    for name, layer in case.layers(model).items():
        r = 5 if name.endswith(f".{target}") else 2
        assert layer.mora_r["default"] == r
        assert layer.mora_operator["default"] == case.config(r=r).build_operator(layer.in_features, layer.out_features)
    assert {layer.mora_r["default"] for layer in case.layers(model).values()} == {2, 5}
    model.save_pretrained(tmp_path)
    assert torch.equal(case.logits(PeftModel.from_pretrained(case.base(), tmp_path)), case.logits(model))


def test_a_pattern_that_matches_no_layer_is_named(llama):
    with pytest.warns(RuntimeWarning, match=r"rank_pattern keys did not match any.*\['nowhere'\]"):
        llama.adapted(rank_pattern={"nowhere": 3})


def test_all_layers_have_the_operator_that_auto_means_at_r(llama):
    model = llama.adapted(operator="auto", rank_pattern={"q_proj": 33})
    assert {layer.mora_operator["default"].name for layer in llama.layers(model).values()} == {"rotation"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operator": "shearing"}, f"operator must be one of auto, {', '.join(operators.NAMES)}"),
        ({"projection_seed": -1}, "projection_seed must be an integer from 0 to .* - 1, got -1"),
        ({"projection_seed": 0.5}, "projection_seed must be an integer from 0 to .* - 1, got 0.5"),
        ({"projection_seed": 2**63}, "projection_seed must be an integer from 0 to"),
        ({"target_modules": 3}, "target_modules must be a list of names, or a regex for whole names, got 3"),
        ({"target_modules": "*"}, r"target_modules must be a list of names, or a regex for whole names, got '\*'"),
        ({"exclude_modules": [1]}, "exclude_modules must be a list of names"),
        ({"target_parameters": "down_proj"}, "target_parameters must be a list of names, got 'down_proj'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be a list of names, got 'lm_head'"),
        ({"layers_to_transform": "1"}, "layers_to_transform must be indices of at least 0, got '1'"),
        ({"rank_pattern": {"q_proj(": 2}}, "rank_pattern must map names of layers to positive integers"),
        ({"rank_pattern": {3: 2}}, "rank_pattern must map names of layers to positive integers"),
        ({"in_groups": "x"}, "in_groups must be one of strided, contiguous, got 'x'"),
        ({"out_groups": "x"}, "out_groups must be one of strided, contiguous, got 'x'"),
        ({"surplus": "x"}, "surplus must be one of drop, fold, got 'x'"),
        ({"bias": "lora_only"}, "bias must be one of none, all, mora_only, got 'lora_only'"),
        ({"rounding": "up"}, "rounding must be one of floor, nearest, got 'up'"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern must map names of layers to positive integers"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must map names of layers to positive integers"),
        ({"r": 0}, "r must be a positive integer, got 0"),
        ({"r": -8}, "r must be a positive integer, got -8"),
        ({"r": 2.5}, "r must be a positive integer, got 2.5"),
        ({"r": True}, "r must be a positive integer, got True"),
        ({"mora_dropout": 1.0}, r"mora_dropout must be in \[0, 1\), got 1.0"),
        ({"mora_dropout": -0.1}, r"mora_dropout must be in \[0, 1\), got -0.1"),
        ({"target_modules": ".*q", "layers_to_transform": [0]}, "layers_to_transform cannot be used"),
        ({"target_modules": ".*q", "layers_pattern": "h"}, "layers_pattern cannot be used"),
        ({"layers_pattern": "h"}, "layers_pattern is only used together with layers_to_transform"),
    ],
)
def test_values_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MoraConfig(**options)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 4, 3), "Conv2d: MoRA adapts torch.nn.Linear.* one matrix for each position of its kernel"),
        (nn.Embedding(3, 4), "Embedding: MoRA adapts torch.nn.Linear.* looks up a row of its weight"),
        (nn.MultiheadAttention(4, 2), "MultiheadAttention: MoRA adapts torch.nn.Linear.* without calling the layers"),
        (nn.LayerNorm(4), "LayerNorm: MoRA adapts torch.nn.Linear.* backend that PEFT supports$"),
    ],
)
def test_layers_that_are_not_linear_are_refused(layer, reason):
    with pytest.raises(TypeError, match=f"0 is a {reason}"):
        get_peft_model(nn.Sequential(layer), MoraConfig(target_modules=["0"]))


@pytest.mark.parametrize("target", ["out_proj", "linear1", "linear2"])
def test_layers_that_the_model_does_not_call_are_refused(target):
    """In evaluation mode torch reads the weights of an encoder layer, so an adapter would be silently ignored."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    with pytest.raises(ValueError, match=f"{target}: a .* reads the weight of this layer without calling the layer"):
        get_peft_model(model, MoraConfig(target_modules=[target]))


@pytest.mark.parametrize("targets", [["dt_proj"], "all-linear"])
def test_the_step_size_layer_of_mamba_is_refused(targets):
    """Mamba multiplies by its weight. A merge would change the model that the adapter did not change."""
    sizes = {"vocab_size": 48, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    model = MambaForCausalLM(MambaConfig(**sizes))
    with pytest.raises(ValueError, match=r"dt_proj: a model of type 'mamba' reads the weight .* in exclude_modules"):
        get_peft_model(model, MoraConfig(target_modules=targets, exclude_modules=["out_proj"]))


def test_targets_that_do_not_exist_are_refused(llama):
    with pytest.raises(ValueError, match="nowhere"):
        llama.adapted(target_modules=["nowhere"])


def test_scaling_is_refused_with_a_warning(llama):
    layer = next(iter(llama.layers(llama.adapted()).values()))
    layer.scale_layer(1)
    layer.unscale_layer()
    for rescale in (layer.scale_layer, layer.unscale_layer):
        with pytest.warns(UserWarning, match="scaling is not supported"):
            rescale(2.0)


def test_peft_knows_the_method():
    assert PeftType("MORA") is PeftType.MORA
    assert isinstance(MoraLinear(nn.Linear(3, 3), "default", MoraConfig(r=1)), BaseTunerLayer)
