"""Forward and backward of adapted models, in every mode that training uses."""

import pytest
import torch
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn


def close(actual, expected):
    """Equal up to the rounding of float32 sums in another order."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_reaches_the_adapter_and_nothing_else(case):
    model = case.adapted().train()
    gradients = case.gradients(model)
    assert set(gradients) == {f"{name}.mora_M.default" for name in case.layers(model)}
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    assert set(gradients) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_training_starts_at_the_function_of_the_base(case):
    model = case.adapted(init_weights=True)
    assert torch.equal(case.logits(model), case.logits(case.base()))
    loss = [model(**case.inputs).loss.item()]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        case.gradients(model)
        optimizer.step()
        loss.append(model(**case.inputs).loss.item())
    assert loss == sorted(loss, reverse=True), "M = 0 must not be a saddle point, as B = A = 0 would be for LoRA"


def test_gradients_are_those_of_the_dense_update(case):
    """M trained through the layers against M trained through the dense weight of Eq. 3."""
    model, dense = case.adapted(dtype=torch.float64), case.base().double()
    deltas = {}
    for name, layer in case.layers(model).items():
        weight = dense.get_parameter(name.removeprefix("base_model.model.") + ".weight")
        weight.data += layer.get_delta_weight("default")
        deltas[name] = weight
    dense(**case.inputs).loss.backward()
    gradients = case.gradients(model)
    for name, layer in case.layers(model).items():
        M = torch.zeros_like(layer.mora_M["default"], requires_grad=True)
        delta = layer.mora_operator["default"].delta_weight(M)
        gradient = deltas[name].grad.T if case.architecture == "gpt2" else deltas[name].grad
        (expected,) = torch.autograd.grad(delta, M, gradient)
        torch.testing.assert_close(gradients[f"{name}.mora_M.default"], expected, rtol=1e-6, atol=1e-9)


def test_dropout_is_active_in_training_alone(case):
    model, plain = case.adapted(mora_dropout=0.5), case.adapted()
    assert torch.equal(case.logits(model), case.logits(plain))
    model.train()
    torch.manual_seed(0)
    first, second = case.logits(model), case.logits(model)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(case.logits(model), first)


def test_dropout_leaves_the_base_alone(llama):
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
        close(gradient, expected[name])


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


def test_disabled_adapters_give_the_base_to_the_bit(case):
    model, base = case.adapted(), case.logits(case.base())
    adapted = case.logits(model)
    with model.disable_adapter():
        assert torch.equal(case.logits(model), base)
    assert torch.equal(case.logits(model), adapted)


def test_adding_switching_combining_and_deleting_adapters(case):
    model, base = case.adapted(), case.logits(case.base())
    first = case.logits(model)
    model.add_adapter("other", case.config(r=3))
    assert torch.equal(case.logits(model), first), "an adapter that is added is not active"

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
    close(case.logits(model), both)

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


def test_a_compiled_model_is_the_model(llama):
    model = llama.adapted().train()
    expected = llama.gradients(model)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    model.zero_grad()
    compiled(**llama.inputs).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            close(parameter.grad, expected[name])
