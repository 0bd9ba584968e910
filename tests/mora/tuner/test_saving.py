"""Saving adapters. A saved adapter loads as the same model, bit by bit."""

import copy
import io
import json

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

from mora import MoraConfig, operators


def square_matrices(case, model, adapter="default"):
    return {name: layer.mora_M[adapter] for name, layer in case.layers(model).items()}


def test_save_and_reload_give_the_same_bits(case, tmp_path):
    model = case.adapted()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path)
    assert torch.equal(case.logits(loaded), case.logits(model))
    assert not torch.equal(case.logits(loaded), case.logits(case.base()))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_reloaded_adapter_can_be_trained(case, tmp_path):
    model = case.adapted()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path, is_trainable=True)
    expected = case.gradients(model)
    for name, gradient in case.gradients(loaded).items():
        assert torch.equal(gradient, expected[name])


def test_load_with_low_memory(case, tmp_path):
    model = case.adapted()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path, low_cpu_mem_usage=True)
    assert not any(p.is_meta for p in loaded.parameters())
    assert torch.equal(case.logits(loaded), case.logits(model))


def test_only_the_square_matrices_are_saved(case, tmp_path):
    model = case.adapted()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    expected = {f"{name}.mora_M": M for name, M in square_matrices(case, model).items()}
    assert set(tensors) == set(expected) == set(get_peft_model_state_dict(model))
    for name, M in tensors.items():
        assert torch.equal(M, expected[name])
    count = sum(M.numel() for M in tensors.values())
    assert count == model.get_nb_trainable_parameters()[0]
    # A number has four bytes. The header has less than 300 bytes for each tensor.
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * count + 300 * len(tensors)


def test_two_adapters_are_saved_separately(case, tmp_path):
    model = case.adapted()
    model.add_adapter("other", case.config(r=3))
    first = case.logits(model)
    model.set_adapter("other")
    second = case.logits(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path)
    loaded.load_adapter(tmp_path / "other", "other")
    assert torch.equal(case.logits(loaded), first)
    loaded.set_adapter("other")
    assert torch.equal(case.logits(loaded), second)
    assert not torch.equal(first, second)


def test_the_adapter_of_a_bf16_base_is_saved_in_float32(case, tmp_path):
    model = case.adapted(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert {M.dtype for M in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    loaded = PeftModel.from_pretrained(case.base().to(torch.bfloat16), tmp_path)
    assert torch.equal(case.logits(loaded), case.logits(model))


def test_modules_to_save_are_trained_and_saved(case, tmp_path):
    norm = {"llama": "input_layernorm", "gpt2": "ln_1", "t5": "final_layer_norm"}[case.architecture]
    model = case.adapted(modules_to_save=[norm])
    norms = {name for name, p in model.named_parameters() if p.requires_grad and "mora_M" not in name}
    assert norms
    assert all(f"{norm}.modules_to_save.default" in name for name in norms)
    assert norms <= set(case.gradients(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in norms:
                parameter.add_(0.25)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path)
    assert torch.equal(case.logits(loaded), case.logits(model))
    with model.disable_adapter():
        assert torch.equal(case.logits(model), case.logits(case.base()))


def test_transformers_loads_an_adapter_that_peft_saved(case, tmp_path):
    model = case.adapted()
    model.save_pretrained(tmp_path)
    base = case.base()
    base.load_adapter(tmp_path)
    assert torch.equal(case.logits(base), case.logits(model))
    base.disable_adapters()
    assert torch.equal(case.logits(base), case.logits(case.base()))
    base.enable_adapters()
    assert torch.equal(case.logits(base), case.logits(model))


def test_transformers_adds_trains_and_saves_an_adapter(case, tmp_path):
    base = case.base()
    base.add_adapter(case.config(), "other")
    expected = case.logits(base)
    assert all(".mora_M.other" in name for name in case.gradients(base))
    base.save_pretrained(tmp_path)
    reloaded = case.base()
    reloaded.load_adapter(tmp_path, adapter_name="other")
    assert torch.equal(case.logits(reloaded), expected)
    base.delete_adapter("other")
    assert torch.equal(case.logits(base), case.logits(case.base()))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(case, way):
    model = case.adapted()
    if way == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    before = case.logits(model)
    assert torch.equal(case.logits(twin), before)
    with torch.no_grad():
        for M in square_matrices(case, twin).values():
            M.zero_()
    assert torch.equal(case.logits(model), before)
    assert torch.equal(case.logits(twin), case.logits(case.base()))


def test_tied_embeddings_stay_tied(case, tmp_path):
    model = case.adapted()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path)
    for m in (model, loaded, model.merge_and_unload()):
        tied = m.get_output_embeddings().weight is m.get_input_embeddings().weight
        assert tied == (case.architecture in ("gpt2", "t5"))


@pytest.mark.parametrize(("r", "operator"), [(8, "rotation"), (32, "rotation"), (33, "sharing"), (256, "sharing")])
def test_a_saved_config_has_the_operator_that_auto_means(r, operator, tmp_path):
    # Otherwise a later version in which `auto` means something else would load old adapters with the wrong operator.
    config = MoraConfig(r=r, target_modules=["q_proj"])
    assert config.operator == "auto"
    assert config.operator_in_force == operator
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["operator"] == operator


def test_config_round_trip(tmp_path):
    config = MoraConfig(
        r=7,
        operator="sharing",
        in_groups="contiguous",
        out_groups="contiguous",
        wrap=False,
        surplus="fold",
        rounding="nearest",
        rank_pattern={"q": 3},
        mora_dropout=0.05,
        target_modules=["q", "v"],
        exclude_modules=["k"],
        layers_to_transform=[0, 2],
        layers_pattern="block",
        modules_to_save=["norm"],
        bias="mora_only",
    )
    config.save_pretrained(tmp_path)
    for loaded in (PeftConfig.from_pretrained(tmp_path), MoraConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, MoraConfig)
        assert loaded.to_dict() == config.to_dict()
    assert MoraConfig(**config.to_dict()).to_dict() == config.to_dict()


def test_a_reloaded_adapter_has_the_grouping_at_the_time_of_saving(llama, tmp_path):
    # A restart changes the grouping in the configuration and in the layers.
    model = llama.adapted()
    config = model.peft_config["default"]
    config.in_groups = config.out_groups = "contiguous"
    for layer in llama.layers(model).values():
        layer.mora_operator["default"] = config.build_operator(layer.in_features, layer.out_features)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama.base(), tmp_path)
    assert torch.equal(llama.logits(loaded), llama.logits(model))
    assert not torch.equal(llama.logits(loaded), llama.logits(llama.adapted()))


def test_a_file_of_another_rank_is_refused(llama, tmp_path):
    llama.adapted(r=3).save_pretrained(tmp_path)
    config = MoraConfig.from_pretrained(tmp_path)
    config.r = 2
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(llama.base(), tmp_path, config=config)


def test_every_operator_name_loads(tmp_path):
    for name in operators.NAMES:
        MoraConfig(operator=name).save_pretrained(tmp_path)
        assert PeftConfig.from_pretrained(tmp_path).operator_in_force == name
