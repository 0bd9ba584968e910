"""Merging adapters into the base weight, unmerging them, and PEFT's conversion to LoRA."""

from contextlib import nullcontext

import pytest
import torch
from peft import PeftModel, convert_to_lora, get_peft_model, save_as_lora

from mora import MoraLayer, operators

from .conftest import assert_close


def base_weights(case, model):
    return {name: layer.get_base_layer().weight.clone() for name, layer in case.layers(model).items()}


def test_merge_and_unmerge(case):
    model, base = case.adapted(), case.logits(case.base())
    adapted = case.logits(model)
    assert (adapted - base).abs().max() > 1e-2, "the adapter has no effect, so the test proves nothing"
    before = base_weights(case, model)
    model.merge_adapter()
    for name, layer in case.layers(model).items():
        assert layer.merged
        assert_close(layer.get_base_layer().weight, before[name] + layer.get_delta_weight("default"))
    assert_close(case.logits(model), adapted)
    model.unmerge_adapter()
    for name, weight in base_weights(case, model).items():
        assert_close(weight, before[name])
    assert_close(case.logits(model), adapted)


def test_safe_merge_equals_merge(case):
    model, safe_model = case.adapted(), case.adapted()
    model.merge_adapter()
    safe_model.merge_adapter(safe_merge=True)
    assert torch.equal(case.logits(model), case.logits(safe_model))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_safe_merge_refuses_a_broken_adapter(case, value):
    model = case.adapted()
    layer = next(iter(case.layers(model).values()))
    before = layer.get_base_layer().weight.clone()
    layer.mora_M["default"].data[0, 0] = value
    q = layer.mora_operator["default"].r_hat
    message = rf"'default' on a layer with in={layer.in_features}, out={layer.out_features}, r=2, r_hat={q}"
    with pytest.raises(ValueError, match=message):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.get_base_layer().weight, before)
    assert not layer.merged


def test_merge_and_unload(case):
    model = case.adapted()
    adapted = case.logits(model)
    plain = model.merge_and_unload(safe_merge=True)
    assert type(plain) is type(case.base())
    assert not any(isinstance(module, MoraLayer) for module in plain.modules())
    assert set(plain.state_dict()) == set(case.base().state_dict())
    assert_close(case.logits(plain), adapted)


def test_unload_returns_the_base_model(case):
    plain = case.adapted().unload()
    assert not any(isinstance(module, MoraLayer) for module in plain.modules())
    for name, tensor in case.base().state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor)


def test_a_merged_model_can_be_adapted_again(case):
    merged_model = case.adapted().merge_and_unload()
    before = case.logits(merged_model)
    model = get_peft_model(merged_model, case.config(init_weights=True)).eval()
    assert torch.equal(case.logits(model), before)


def test_merging_two_adapters(case):
    model = case.adapted()
    model.add_adapter("other", case.config(r=3))
    model.base_model.set_adapter(["default", "other"])
    both = case.logits(model)
    model.merge_adapter()
    assert_close(case.logits(model), both)
    model.unmerge_adapter()
    assert_close(case.logits(model), both)


def test_merging_one_of_two_adapters(case):
    model = case.adapted()
    model.add_adapter("other", case.config(r=3))
    model.set_adapter("other")
    other = case.logits(model)
    model.set_adapter("default")
    plain = model.merge_and_unload(adapter_names=["other"])
    assert_close(case.logits(plain), other)


def test_merging_twice_warns_and_changes_nothing(case):
    model = case.adapted()
    model.merge_adapter()
    before = base_weights(case, model)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    for name, weight in base_weights(case, model).items():
        assert torch.equal(weight, before[name])


def test_unmerging_twice_warns_and_changes_nothing(case):
    model = case.adapted()
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()
    assert torch.equal(case.logits(model), case.logits(case.adapted()))


def test_a_merged_model_with_disabled_adapters_equals_the_base_model(case):
    model = case.adapted()
    adapted = case.logits(model)
    model.merge_adapter()
    with model.disable_adapter():
        assert_close(case.logits(model), case.logits(case.base()))
    assert_close(case.logits(model), adapted)


def test_merging_into_bf16_rounds_once(case):
    model = case.adapted(dtype=torch.bfloat16, wrap=False)
    before = base_weights(case, model)
    model.merge_adapter()
    for name, layer in case.layers(model).items():
        weight, delta = layer.get_base_layer().weight, layer.get_delta_weight("default")
        assert weight.dtype == torch.bfloat16
        assert delta.dtype == torch.float32
        assert torch.equal(weight, (before[name].float() + delta).bfloat16())


def test_the_head_can_be_adapted_and_a_tied_head_warns(case):
    def warning_if_tied():
        tied = case.architecture in ("gpt2", "t5")
        return pytest.warns(UserWarning, match="tie_word_embeddings=True") if tied else nullcontext()

    with warning_if_tied():
        model = case.adapted(target_modules=["lm_head"])
    assert not torch.equal(case.logits(model), case.logits(case.base()))
    with model.disable_adapter():
        assert torch.equal(case.logits(model), case.logits(case.base()))
    with warning_if_tied():
        model.merge_adapter()


# PEFT converts a Conv1D correctly, but it warns when the LoRA adapter is loaded.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`")
def test_conversion_to_lora_is_exact_or_refused(case, tmp_path):
    model = case.adapted()
    layers = case.layers(model).values()
    if case.operator in operators.BLOCKED:
        assert not model.supports_lora_conversion()
        with pytest.raises(TypeError, match="do not support LoRA conversion"):
            convert_to_lora(model, rank=12)
        return
    assert model.supports_lora_conversion()
    rank = max(layer.mora_operator["default"].r_hat for layer in layers)
    save_as_lora(tmp_path, model, rank=rank)
    lora_model = PeftModel.from_pretrained(case.base(), tmp_path)
    assert lora_model.peft_config["default"].peft_type == "LORA"
    assert_close(case.logits(lora_model), case.logits(model))


def test_supports_lora_conversion_depends_on_the_adapter(llama):
    model = llama.adapted()
    model.add_adapter("blocks", llama.config(operator="rotation"))
    assert all(layer.supports_lora_conversion("default") for layer in llama.layers(model).values())
    assert not any(layer.supports_lora_conversion("blocks") for layer in llama.layers(model).values())
    assert not any(layer.supports_lora_conversion("absent") for layer in llama.layers(model).values())
