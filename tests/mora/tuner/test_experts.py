"""MoRA on the fused weights of a mixture of experts (`target_parameters`), in both layouts of these weights."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from mora import MoraConfig, operators, restart
from mora.conversion import as_lora
from mora.experts import ParamWrapper

from .conftest import assert_close

TOKENS = torch.arange(2 * 9).reshape(2, 9) * 5 % 48
PARAMETERS = ["experts.gate_up_proj", "experts.down_proj"]
EXPERTS = 3
# No r_hat of the tests divides these sizes.
SIZES = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32,
}
MODELS = {  # Mixtral stores (experts, out, in), GPT-OSS stores (experts, in, out)
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, pad_token_id=0, eos_token_id=1)),
    "gpt-oss": lambda: GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=12, pad_token_id=0, eos_token_id=1)),
}


@pytest.fixture(params=MODELS)
def family(request) -> str:
    return request.param


@pytest.fixture(params=operators.NAMES)
def operator(request) -> str:
    return request.param


def base(family: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[family]().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return model


def config(operator: str = "sharing", **options) -> MoraConfig:
    defaults = {"r": 2, "operator": operator, "target_modules": ["q_proj"], "target_parameters": PARAMETERS}
    return MoraConfig(**defaults | {"init_weights": False} | options)


def adapted(family: str, operator: str = "sharing", dtype=torch.float32, **options) -> PeftModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return get_peft_model(base(family).to(dtype), config(operator, **options)).eval()


def wrappers(model: nn.Module) -> dict[str, ParamWrapper]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ParamWrapper)}


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(TOKENS).logits


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(TOKENS, labels=TOKENS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_each_expert_has_its_own_matrix(family):
    model = adapted(family)
    assert len(wrappers(model)) == 2 * 2
    for layer in wrappers(model).values():
        sizes = {"gate_up_proj": (24, 80), "down_proj": (40, 24)}[layer.parameter_name]
        assert (layer.in_features, layer.out_features) == sizes
        q = operators.square_size(*sizes, 2)
        assert layer.mora_M["default"].shape == (EXPERTS, q, q)
        assert f"parameter_name='{layer.parameter_name}'" in repr(layer)
    lora = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=PARAMETERS)
    budget = get_peft_model(base(family), lora).get_nb_trainable_parameters()[0]
    assert 0.8 * budget < model.get_nb_trainable_parameters()[0] <= budget


def test_training_starts_with_the_function_of_the_base(family, operator):
    model = adapted(family, operator, init_weights=True)
    assert torch.equal(logits(model), logits(base(family)))
    assert set(gradients(model)) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_it_computes_with_the_dense_update(family, operator):
    """The logits and the gradients equal those of a model whose experts hold the sum (Eq. 3)."""
    model, dense = adapted(family, operator, torch.float64), base(family).double()
    for m in (model, dense):
        m.config._experts_implementation = "eager"  # the faster implementations have no float64
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ParamWrapper):
            path = f"{name.removeprefix('base_model.model.').replace('.base_layer', '')}.{layer.parameter_name}"
            weights[name] = dense.get_parameter(path)
            weights[name].data += layer.get_delta_weight("default")
        elif name.endswith("q_proj"):
            dense.get_submodule(name.removeprefix("base_model.model.")).weight.data += layer.get_delta_weight("default")
    torch.testing.assert_close(logits(model), logits(dense))
    assert not torch.allclose(logits(model).float(), logits(base(family)), atol=1e-2)
    dense(TOKENS, labels=TOKENS).loss.backward()
    own = gradients(model)
    for name, layer in wrappers(model).items():
        grad = weights[name].grad
        grad = grad.mT if layer._transposed else grad
        for e in range(EXPERTS):
            M = torch.zeros_like(layer.mora_M["default"][e], requires_grad=True)
            (expected,) = torch.autograd.grad(layer.mora_operator["default"].delta_weight(M), M, grad[e])
            torch.testing.assert_close(own[f"{name}.mora_M.default"][e], expected, rtol=1e-6, atol=1e-10)
        assert own[f"{name}.mora_M.default"].any()


def test_merge_and_unmerge(family, operator):
    model = adapted(family, operator)
    expected, plain = logits(model), {n: p.clone() for n, p in model.named_parameters()}
    model.merge_adapter(safe_merge=True)
    assert_close(logits(model), expected)
    model.unmerge_adapter()
    for name, parameter in model.named_parameters():
        assert_close(parameter, plain[name])
    model.merge_adapter()
    with model.disable_adapter():
        assert_close(logits(model), logits(base(family)))
    merged = adapted(family, operator).merge_and_unload(safe_merge=True)
    assert type(merged) is type(base(family))
    assert set(merged.state_dict()) == set(base(family).state_dict())
    assert_close(logits(merged), expected)


def test_unload_returns_the_base_model(family):
    plain = adapted(family).unload()
    assert not wrappers(plain)
    assert torch.equal(logits(plain), logits(base(family)))


def test_a_merge_of_a_broken_adapter_is_refused(family):
    model = adapted(family)
    layer = next(iter(wrappers(model).values()))
    layer.mora_M["default"].data[1, 0, 0] = torch.nan
    before = layer.parameter.clone()
    with pytest.raises(ValueError, match="the merged weight is not finite: adapter 'default' on a layer with in="):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.parameter, before)


def test_save_and_reload_give_the_same_bits(family, operator, tmp_path):
    with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match"):  # PEFT looks at the layers only
        model = adapted(family, operator, rank_pattern={"experts.down_proj": 3})
    assert {layer.mora_r["default"] for layer in wrappers(model).values()} == {2, 3}
    model.save_pretrained(tmp_path)
    for options in ({}, {"low_cpu_mem_usage": True}):
        with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match"):
            loaded = PeftModel.from_pretrained(base(family), tmp_path, **options)
        assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("parameters", [PARAMETERS, PARAMETERS[:1], PARAMETERS[1:]])
def test_any_of_the_parameters_without_a_layer(family, parameters):
    model = adapted(family, target_modules=None, target_parameters=parameters)
    assert len(wrappers(model)) == 2 * len(parameters)
    assert all("mora_M" in name and "experts" in name for name in gradients(model))
    assert not torch.allclose(logits(model), logits(base(family)), atol=1e-3)


def test_a_second_adapter(family):
    model = adapted(family)
    first = logits(model)
    model.add_adapter("other", config(r=3))
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    second = logits(model)
    assert not torch.allclose(second, first, atol=1e-3)
    assert all(name.endswith(".other") for name in gradients(model))
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    model.merge_adapter()
    assert_close(logits(model), both)
    model.unmerge_adapter()
    model.set_adapter("default")
    assert_close(logits(model), first)
    model.add_adapter("twin", config())
    model.add_weighted_adapter(["default", "twin"], [1.0, 0.5], "sum")
    for layer in wrappers(model).values():
        one, two, total = (layer.get_delta_weight(name) for name in ("default", "twin", "sum"))
        assert_close(total, one + 0.5 * two)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(family, use_reentrant):
    expected = gradients(adapted(family).train())
    model = adapted(family).train()
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": use_reentrant})
    model.get_base_model().enable_input_require_grads()
    for name, gradient in gradients(model).items():
        assert_close(gradient, expected[name])


def test_a_bf16_base_keeps_the_adapter_in_float32(family):
    model = adapted(family, dtype=torch.bfloat16)
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


@pytest.mark.parametrize("layer", [nn.Linear, lambda k, d: Conv1D(d, k)], ids=["Linear", "Conv1D"])
def test_the_weight_of_a_layer_is_a_parameter_too(layer):
    """A parameter with two dimensions has one M, and computes as the layer with an adapter does."""
    x = torch.randn(4, 6)
    outputs = []
    for targets in ({"target_modules": ["0"]}, {"target_parameters": ["0.weight"]}):
        torch.manual_seed(0)
        model = nn.Sequential(layer(6, 9))
        outputs.append(get_peft_model(model, MoraConfig(r=2, init_weights=False, operator="sharing", **targets))(x))
    assert_close(*outputs)


def test_what_does_not_work_with_parameters_is_refused(family):
    model = adapted(family)
    with pytest.raises(ValueError, match=r"adapter_names does not work with target_parameters \(down_proj\)"):
        model(TOKENS, adapter_names=["default", "default"])
    with pytest.raises(ValueError, match=r"all adapters must have the same target_parameters.*\['experts.down_proj'\]"):
        model.add_adapter("other", config(target_parameters=PARAMETERS[1:]))
    with pytest.raises(ValueError, match=r"experts: only plain LoRA and MoRA on unquantized layers.*ParamWrapper"):
        restart.check(model)
    with pytest.raises(ValueError, match="not its biases, modules_to_save and target_parameters"):
        as_lora(model)
    assert not model.supports_lora_conversion()
    for options in ({"mora_dropout": 0.1}, {"layers_to_transform": [0]}):
        with pytest.raises(ValueError, match="target_parameters works neither with mora_dropout"):
            config(**options)


def test_a_batch_with_rows_of_an_adapter_of_experts_is_refused_whatever_is_active(family):
    """Else a row would get the attention half of its adapter without its experts."""
    model = adapted(family, target_modules=None).eval()
    model.add_adapter("lin", config(target_parameters=None))
    model.set_adapter("lin")
    with pytest.raises(ValueError, match="adapter_names does not work with target_parameters"):
        model(TOKENS, adapter_names=["default", "lin"])
    for names in (["lin", "__base__"], ["__base__", "__base__"]):
        assert torch.isfinite(model(TOKENS, adapter_names=names).logits).all()
    model.set_adapter("default")
    model.merge_adapter(["default"])
    with pytest.raises(ValueError, match="adapter_names does not work with target_parameters"):
        model(TOKENS, adapter_names=["__base__", "__base__"])


def test_the_experts_of_llama_4_have_no_attribute_for_their_layout():
    """They store (experts, in, out). With inputs and outputs swapped, rotation would leave out some outputs."""
    sizes = {**SIZES, "intermediate_size": 64, "intermediate_size_mlp": 64, "hidden_size": 192, "head_dim": 96}
    layers = Llama4TextConfig(**sizes, pad_token_id=0, eos_token_id=1, interleave_moe_layer_step=1)
    model = get_peft_model(
        Llama4ForCausalLM(layers),
        MoraConfig(r=2, operator="rotation", init_weights=False, target_parameters=["experts.gate_up_proj"]),
    )
    for wrapper in wrappers(model).values():
        assert (wrapper.in_features, wrapper.out_features) == (192, 128)
        delta = wrapper.get_delta_weight("default")  # (experts, in, out)
        assert delta.shape == wrapper.parameter.shape == (EXPERTS, 192, 128)
        assert (delta != 0).any(1).all()  # an update for every output


def test_a_parameter_that_is_named_as_a_layer_is_refused(family):
    """PEFT would adapt q_proj and silently skip the experts."""
    with pytest.raises(ValueError, match=r"down_proj is no layer but a parameter for all experts, model\.layers\.\d"):
        get_peft_model(base(family), MoraConfig(target_modules=["q_proj", "down_proj"]))


@pytest.mark.parametrize("targets", [["q_proj", "w1", "w2", "w3"], ["q_proj", "mlp.w1"], ["w1"]])
def test_the_old_names_of_experts_are_refused(family, targets):
    """They named layers before the experts became parameters. PEFT would adapt q_proj and silently skip the experts."""
    message = rf"w1 is no layer.*target_parameters=\['{PARAMETERS[1]}', '{PARAMETERS[0]}'\]"
    with pytest.raises(ValueError, match=message):
        get_peft_model(base(family), MoraConfig(target_modules=targets))
    with pytest.raises(ValueError, match=message):
        adapted(family, target_parameters=PARAMETERS).add_adapter("other", config(target_modules=targets))
    whole_names = ["0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    get_peft_model(base(family), MoraConfig(target_modules=whole_names))


def test_a_model_without_experts_may_have_targets_that_match_no_layer():
    """Lists for several architectures are common."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 3))
    get_peft_model(model, MoraConfig(r=1, target_modules=["0", "query"]))


def test_parameters_that_are_no_matrices_are_refused():
    model = nn.Sequential(nn.Linear(6, 9))
    with pytest.raises(TypeError, match=r"two or three dimensions.* bias has the shape \(9,\)"):
        get_peft_model(model, MoraConfig(target_parameters=["0.bias"]))
