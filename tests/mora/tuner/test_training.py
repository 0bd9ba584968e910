"""Forward and backward pass of adapted models, in every mode that training uses."""

import pytest
import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn

from .conftest import assert_close


def test_only_the_adapter_has_a_gradient(case):
    model = case.adapted().train()
    gradients = case.gradients(model)
    assert set(gradients) == {f"{name}.mora_M.default" for name in case.layers(model)}
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert set(gradients) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_training_starts_with_the_function_of_the_base(case):
    model = case.adapted(init_weights=True)
    assert torch.equal(case.logits(model), case.logits(case.base()))
    losses = [model(**case.inputs).loss.item()]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        case.gradients(model)
        optimizer.step()
        losses.append(model(**case.inputs).loss.item())
    assert losses == sorted(losses, reverse=True), (
        "M = 0 must not be a saddle point; for LoRA, A = B = 0 is a saddle point"
    )


def test_gradients_are_those_of_the_dense_update(case):
    """The gradient of M through the layers equals the gradient of M through the dense weight (Eq. 3)."""
    model, dense = case.adapted(dtype=torch.float64), case.base().double()
    weights = {}
    for name, layer in case.layers(model).items():
        weight = dense.get_parameter(name.removeprefix("base_model.model.") + ".weight")
        weight.data += layer.get_delta_weight("default")
        weights[name] = weight
    dense(**case.inputs).loss.backward()
    gradients = case.gradients(model)
    for name, layer in case.layers(model).items():
        M = torch.zeros_like(layer.mora_M["default"], requires_grad=True)
        delta = layer.mora_operator["default"].delta_weight(M)
        gradient = weights[name].grad.T if case.architecture == "gpt2" else weights[name].grad
        (expected,) = torch.autograd.grad(delta, M, gradient)
        torch.testing.assert_close(gradients[f"{name}.mora_M.default"], expected, rtol=1e-6, atol=1e-9)


def test_dropout_is_active_only_in_training(case):
    model, plain = case.adapted(mora_dropout=0.5), case.adapted()
    assert torch.equal(case.logits(model), case.logits(plain))
    model.train()
    torch.manual_seed(0)
    first, second = case.logits(model), case.logits(model)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(case.logits(model), first)


def test_dropout_does_not_change_the_input_of_the_base(llama):
    model = llama.adapted(mora_dropout=0.5, init_weights=True).train()
    assert torch.equal(llama.logits(model), llama.logits(llama.base()))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(case, use_reentrant):
    expected = case.gradients(case.adapted().train())
    model = case.adapted()
    model.base_model.model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    model.base_model.model.enable_input_require_grads()
    model.train()
    gradients = case.gradients(model)
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name])


def test_bf16_base_keeps_the_adapter_in_float32(case):
    model = case.adapted(dtype=torch.bfloat16).train()
    gradients = case.gradients(model)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert case.logits(model).dtype == torch.bfloat16


def test_bf16_base_and_bf16_adapter(case):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(case.base().bfloat16(), case.config(), autocast_adapter_dtype=False).eval()
    gradients = case.gradients(model)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.bfloat16}
    logits = case.logits(model)
    assert logits.dtype == torch.bfloat16
    reference = case.adapted(dtype=torch.float32)
    torch.testing.assert_close(logits.float(), case.logits(reference), rtol=0.1, atol=0.3)


def test_bf16_autocast_over_a_float32_model(case):
    model = case.adapted().train()
    expected = case.gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = case.gradients(model)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert nn.functional.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0) > 0.95


def test_autocast_without_casting_of_the_input(llama):
    model = llama.adapted(dtype=torch.bfloat16)
    with disable_input_dtype_casting(model), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(llama.logits(model)).all()


def test_disabled_adapters_give_the_same_bits_as_the_base(case):
    model, base = case.adapted(), case.logits(case.base())
    adapted = case.logits(model)
    with model.disable_adapter():
        assert torch.equal(case.logits(model), base)
    assert torch.equal(case.logits(model), adapted)


def test_adding_switching_combining_and_deleting_adapters(case):
    model, base = case.adapted(), case.logits(case.base())
    first = case.logits(model)
    model.add_adapter("other", case.config(r=3))
    assert torch.equal(case.logits(model), first), "a new adapter must not be active"

    model.set_adapter("other")
    second = case.logits(model)
    assert not torch.equal(second, first)
    assert not torch.equal(second, base)
    assert all(name.endswith(".mora_M.other") for name in case.gradients(model))

    model.base_model.set_adapter(["default", "other"])
    both = case.logits(model)
    assert not torch.equal(both, first)
    assert not torch.equal(both, second)
    assert len(case.gradients(model)) == 2 * len(case.layers(model))
    model.base_model.set_adapter(["other", "default"])
    assert_close(case.logits(model), both)

    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(case.logits(model), first)
    assert not any("other" in name for name in model.state_dict())
    assert all("other" not in layer.mora_operator for layer in case.layers(model).values())


def test_adapters_on_different_layers(llama):
    model = llama.adapted(target_modules=["q_proj"])
    first = llama.logits(model)
    model.add_adapter("mlp", llama.config(target_modules=["down_proj"]))
    assert torch.equal(llama.logits(model), first)
    model.set_adapter("mlp")
    assert all("down_proj" in name for name in llama.gradients(model))


@pytest.mark.slow
def test_a_compiled_model_has_the_same_gradients(llama):
    model = llama.adapted().train()
    expected = llama.gradients(model)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    model.zero_grad()
    compiled(**llama.inputs).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert_close(parameter.grad, expected[name])
