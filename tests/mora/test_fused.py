"""The fused training path: equality with the plain composition, and the memory that it saves for the backward pass."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from mora import MoraConfig, fused, kernels, operators, projected
from mora.fused import add_update

from .test_operators import VARIANTS, sizes, squares, variants

# (k, d, r_hat): r_hat divides k and d or not, exceeds them or not; k = d, k < d and k > d, by small and large factors.
SHAPES = [(6, 6, 3), (7, 7, 3), (5, 11, 4), (11, 5, 4), (13, 3, 2), (3, 13, 2), (3, 4, 8), (2, 9, 5), (9, 2, 5)]


def tensors(k, d, q, leading=(4,), dtype=torch.float64):
    """Random base output (..., d), input (..., k) and M (q, q), all with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((*leading, d), (*leading, k), (q, q))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def assert_same(actual, expected, inputs):
    """Equal values, and equal gradients of each of `inputs`."""
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    gradients = (torch.autograd.grad(y, inputs, direction) for y in (actual, expected))
    for grad, expected_grad in zip(*gradients, strict=True):
        torch.testing.assert_close(grad, expected_grad)


def add_update_to_copy(result, x, M, operator):
    return add_update(result.clone(), x, M, operator)


@given(variants, sizes, sizes, squares, st.sampled_from([(), (3,), (2, 0), (2, 3)]))
def test_equals_the_plain_composition(variant, k, d, q, leading):
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    inputs = tensors(k, d, q, leading)
    assert_same(add_update_to_copy(*inputs, operator), inputs[0] + operator.apply(*inputs[1:]), inputs)


@given(variants, sizes, sizes, squares, st.sampled_from([(), (3,), (2, 0), (2, 3)]), st.booleans())
def test_with_the_base_equals_the_plain_composition(variant, k, d, q, leading, with_bias):
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    _, *inputs = tensors(k, d, q, leading)
    weight, bias = torch.randn(d, k, dtype=torch.float64), torch.randn(d, dtype=torch.float64) if with_bias else None
    base = nn.functional.linear(inputs[0], weight, bias)
    assert_same(fused.linear(inputs[0], weight, bias, inputs[1], operator), base + operator.apply(*inputs), inputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join([v[0], *map(str, v[1].values())]))
def test_gradcheck(variant, shape):
    name, options = variant
    operator = operators.build(name, *shape, **options)
    result, x, M = tensors(*shape, leading=(2,))
    assert torch.autograd.gradcheck(lambda *inputs: add_update_to_copy(*inputs, operator), (result, x, M))
    weight = torch.randn(shape[1], shape[0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, M: fused.linear(x, weight, None, M, operator), (x, M))


@given(variants, sizes, sizes, squares, st.sampled_from([torch.bfloat16, torch.float16]))
def test_low_precision_activations_with_a_float32_matrix(variant, k, d, q, dtype):
    """The sum is computed in float32 and rounded once, so the error is at most one unit in the last place."""
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    result, x, _ = tensors(k, d, q, dtype=dtype)
    M = torch.randn(q, q, requires_grad=True)
    exact = result.double() + operator.apply(x.double(), M.double())
    y = add_update_to_copy(result, x, M, operator)
    assert y.dtype == dtype
    unit = torch.finfo(dtype).eps
    if name != "sharing" or not options["wrap"]:
        torch.testing.assert_close(y.double(), exact, rtol=unit, atol=1e-3)
    grads = torch.autograd.grad(y.float().sum(), [x, M])
    assert [g.dtype for g in grads] == [dtype, torch.float32]


@pytest.mark.parametrize("shape", [(96, 160, 40), (160, 96, 40), (96, 96, 96)], ids=str)
@pytest.mark.parametrize("name", operators.NAMES)
def test_sum_with_the_base_is_rounded_no_more_than_the_base(name, shape):
    """With adapter and weight in bfloat16. The products are large enough for the fast code of torch."""
    k, d, q = shape
    _, x, M = tensors(k, d, q, leading=(64,))
    weight, operator = torch.randn(d, k, dtype=torch.float64), operators.build(name, k, d, q)
    x, M, weight = (t.detach().bfloat16().requires_grad_(t.requires_grad) for t in (x, M / q, weight))
    exact = nn.functional.linear(x.double(), weight.double()) + operator.apply(x.double(), M.double())
    y = fused.linear(x, weight, None, M, operator)
    base = nn.functional.linear(x, weight)
    error = (y.double() - exact).norm()
    assert y.dtype == torch.bfloat16
    assert error <= 1.5 * (base.double() - nn.functional.linear(x.double(), weight.double())).norm()
    direction = torch.randn_like(exact)
    for actual, expected in zip(*(torch.autograd.grad(r, [x, M], direction.to(r)) for r in (y, exact)), strict=True):
        assert (actual.double() - expected.double()).norm() <= 0.02 * expected.double().norm()


def test_triton_kernels_add_the_update_where_they_are_on(monkeypatch):
    operator = operators.build("sharing", 10, 14, 6)
    calls = []
    triton = SimpleNamespace(
        INTERPRETED=True,
        sum_groups=lambda features, x, dtype: calls.append("sum") or features.sum(x),
        add_spread_=lambda features, out, y: calls.append("add") or features.add_spread_(out, y),
    )
    monkeypatch.setattr(kernels, "_triton", triton)
    _, x, M = tensors(10, 14, 6, dtype=torch.float32)
    weight = torch.randn(14, 10)
    expected = x @ weight.T + operator.apply(x, M)
    calls.clear()
    assert_same(fused.linear(x, weight, None, M, operator), expected, [x, M])
    assert calls == ["sum", "add"] * 2


@pytest.mark.parametrize("name", operators.NAMES)
def test_the_result_is_in_the_memory_of_the_base_output(name):
    base = nn.Linear(10, 14).double()
    _, x, M = tensors(10, 14, 6)
    result = base(x)
    address = result.data_ptr()
    assert add_update(result, x, M, operators.build(name, 10, 14, 6)).data_ptr() == address


@pytest.mark.parametrize("name", operators.NAMES)
def test_a_base_that_saved_its_output_is_an_error_not_a_wrong_gradient(name):
    result, x, M = tensors(10, 14, 6)
    output = result.tanh()  # tanh saves its output for the backward pass
    y = add_update(output, x, M, operators.build(name, 10, 14, 6))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", operators.NAMES)
def test_a_second_derivative_is_an_error_not_a_wrong_value(name):
    result, x, M = tensors(10, 14, 6)
    y = add_update_to_copy(result, x, M, operators.build(name, 10, 14, 6))
    with pytest.raises(RuntimeError, match="computes second derivatives"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)
    y = fused.linear(x, torch.randn(14, 10, dtype=torch.float64), None, M, operators.build(name, 10, 14, 6))
    with pytest.raises(RuntimeError, match="computes second derivatives"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


def bytes_saved(model: nn.Module, x: torch.Tensor) -> int:
    """The bytes that autograd saves in a forward pass, without the parameters."""
    storages: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    del output
    return sum(storages.values())


def test_sharing_saves_only_the_compressed_input():
    k, tokens, r = 4096, 32, 8
    x = torch.randn(tokens, k, requires_grad=True)
    size = {}
    for method, config in (
        ("mora", MoraConfig(r=r, operator="sharing", target_modules=["0"])),
        ("lora", LoraConfig(r=r, target_modules=["0"])),
    ):
        model = get_peft_model(nn.Sequential(nn.Linear(k, k, bias=False)), config)
        size[method] = bytes_saved(model, x)
    assert size["mora"] == 4 * tokens * operators.square_size(k, k, r)
    assert size["lora"] == 4 * tokens * (k + r)
    assert size["mora"] <= 0.1 * size["lora"]


@pytest.mark.parametrize("name", operators.NAMES)
def test_a_frozen_adapter_saves_nothing(name):
    config = MoraConfig(operator=name, target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(20, 20, bias=False)), config).requires_grad_(False)
    assert bytes_saved(model, torch.randn(20, 20, requires_grad=True)) == 0


def layer_and_input(operator="sharing", **options):
    """A MoraLinear on a frozen layer, 10 -> 14, and an input (8, 10)."""
    torch.manual_seed(0)
    config = MoraConfig(r=2, operator=operator, init_weights=False, target_modules=["0"], **options)
    model = get_peft_model(nn.Sequential(nn.Linear(10, 14)), config)
    return model.get_base_model()[0], torch.randn(8, 10, requires_grad=True)


def base_is_called(monkeypatch, layer, x):
    """Whether the layer calls its base layer. Otherwise `fused.linear` computes the base."""
    calls = []
    linear = fused.linear
    monkeypatch.setattr(fused, "linear", lambda *inputs: calls.append(1) or linear(*inputs))
    y = layer(x)
    assert y.shape == (8, 14)
    return not calls


def test_a_plain_frozen_base_is_not_called(monkeypatch):
    assert not base_is_called(monkeypatch, *layer_and_input())


@pytest.mark.parametrize(
    "change",
    [
        lambda base: base.register_forward_hook(lambda *_: None),
        lambda base: base.register_forward_pre_hook(lambda *_: None),
        lambda base: base.register_full_backward_hook(lambda *_: None),
        lambda base: base.register_full_backward_pre_hook(lambda *_: None),
        lambda base: setattr(base, "forward", lambda x: nn.Linear.forward(base, x)),
        lambda base: base.weight.requires_grad_(),
        lambda base: base.bias.requires_grad_(),
        lambda base: nn.utils.parametrizations.weight_norm(base),
    ],
    ids=[
        "forward",
        "forward pre",
        "backward",
        "backward pre",
        "replaced",
        "weight trains",
        "bias trains",
        "parametrized",
    ],
)
def test_a_base_with_hooks_or_trainable_parameters_is_called(monkeypatch, change):
    layer, x = layer_and_input()
    expected = layer(x)
    change(layer.base_layer)
    assert base_is_called(monkeypatch, layer, x)
    torch.testing.assert_close(layer(x), expected)


def test_hooks_on_all_modules_see_the_base(monkeypatch):
    layer, x = layer_and_input()
    modules = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: modules.append(module))
    try:
        assert base_is_called(monkeypatch, layer, x)
    finally:
        hook.remove()
    assert layer.base_layer in modules


def test_the_base_is_called_while_dropout_is_active(monkeypatch):
    layer, x = layer_and_input(mora_dropout=0.5)
    assert base_is_called(monkeypatch, layer.train(), x)
    assert not base_is_called(monkeypatch, layer.eval(), x)


def keep_by_a_hook(base, outputs, monkeypatch):
    base.register_forward_hook(lambda module, inputs, output: outputs.append(output))


def keep_by_a_hook_on_all_modules(base, outputs, monkeypatch):
    # Hooks of this test's own, which go with it.
    monkeypatch.setattr(nn.modules.module, "_global_forward_hooks", OrderedDict())
    nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: outputs.append(output) if module is base else None
    )


def keep_by_another_forward(base, outputs, monkeypatch):
    forward = base.forward
    base.forward = lambda x: outputs.append(forward(x)) or outputs[-1]


def keep_by_another_forward_of_the_class(base, outputs, monkeypatch):
    forward = type(base).forward
    monkeypatch.setattr(type(base), "forward", lambda self, x: outputs.append(forward(self, x)) or outputs[-1])


KEEPERS = [keep_by_a_hook, keep_by_a_hook_on_all_modules, keep_by_another_forward, keep_by_another_forward_of_the_class]


@pytest.mark.parametrize("keep", KEEPERS)
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_an_output_that_others_keep_is_not_overwritten(monkeypatch, keep, kind):
    """The base is called, and its output keeps its values."""
    base = nn.Linear(10, 14) if kind is nn.Linear else Conv1D(14, 10)
    config = MoraConfig(r=2, operator="sharing", init_weights=False, target_modules=["0"])
    layer, x = get_peft_model(nn.Sequential(base), config).get_base_model()[0], torch.randn(8, 10)
    expected, product, outputs = layer(x), base(x), []
    keep(base, outputs, monkeypatch)
    torch.testing.assert_close(layer(x), expected)
    (output,) = outputs
    torch.testing.assert_close(output, product)
    assert not torch.allclose(output, expected, atol=1e-3)


def test_further_arguments_reach_the_base():
    layer, x = layer_and_input()
    with pytest.raises(TypeError, match="scale"):
        layer(x, scale=2)
    with pytest.raises(TypeError, match="positional"):
        layer(x, 2)
    forward = layer.base_layer.forward
    layer.base_layer.forward = lambda x, scale: scale * forward(x)
    torch.testing.assert_close(layer(x, scale=2) - layer(x, 1), layer.base_layer(x, 1))


@pytest.mark.parametrize("name", operators.NAMES)
@pytest.mark.parametrize("derivative", ["hessian", "hvp", "vhp", "jvp"])
def test_derivatives_of_the_backward_pass_are_errors_and_not_zeros(name, derivative):
    """`torch.autograd.functional.jvp`, too, differentiates the backward pass."""
    layer, x = layer_and_input(name)
    x = x.detach()
    function = layer if derivative == "jvp" else lambda x: layer(x).square().sum()
    directions = () if derivative == "hessian" else (torch.ones_like(x),)
    with pytest.raises(RuntimeError, match="computes second derivatives"):
        getattr(torch.autograd.functional, derivative)(function, x, *directions)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch itself calls it
@pytest.mark.parametrize("name", operators.NAMES)
def test_forward_mode_differentiation(name):
    layer, x = layer_and_input(name)
    direction = torch.ones_like(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), direction)
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    weight = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(tangent, direction @ weight.T, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and still in use
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", operators.NAMES)
def test_a_layer_that_was_traced_is_saved_and_computes_the_same(name, tmp_path):
    layer, x = layer_and_input(name)
    torch.jit.trace(layer, (x.detach(),)).save(tmp_path / "traced.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "traced.pt")(x), layer(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch itself calls it for vmap
def test_a_random_matrix_that_a_transform_asks_for_first_can_be_used_later():
    layer, x = layer_and_input("randproj")
    for randomness in ("error", "different"):
        projected.random_matrix.cache_clear()
        mapped = torch.func.vmap(layer, randomness=randomness)(x.detach()[:, None])
        torch.testing.assert_close(mapped[:, 0], layer(x))


@pytest.mark.parametrize("name", operators.NAMES)
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_layer_computes_the_same(name, strict):
    layer, x = layer_and_input(name)
    exported = torch.export.export(layer.eval(), (x.detach(),), strict=strict).module()
    torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch itself calls it for jvp
@pytest.mark.parametrize("name", operators.NAMES)
def test_the_transforms_of_torch_func(name):
    """grad, vmap and jvp, and second derivatives, equal those of a linear layer with the sum of the weights."""
    layer, x = layer_and_input(name)
    layer, x = layer.double(), x.detach().double()
    W, b = layer.base_layer.weight.detach(), layer.base_layer.bias.detach()
    M, operator = layer.mora_M["default"].detach(), layer.mora_operator["default"]

    def loss(M, x):
        return torch.func.functional_call(layer, {"mora_M.default": M}, (x,)).pow(3).sum()

    def dense_loss(M, x):
        y = nn.functional.linear(x, W, b) + operator.apply(x, M)
        return y.pow(3).sum()

    def second(f):
        return torch.func.grad(lambda M, x: torch.func.grad(f)(M, x).pow(2).sum())

    for actual, expected in (
        (torch.func.grad(loss), torch.func.grad(dense_loss)),
        (torch.func.vmap(torch.func.grad(loss), (None, 0)), torch.func.vmap(torch.func.grad(dense_loss), (None, 0))),
        (second(loss), second(dense_loss)),
    ):
        torch.testing.assert_close(actual(M, x), expected(M, x))
    output, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(output, layer(x))
    torch.testing.assert_close(tangent, (torch.ones_like(x) @ (W + layer.get_delta_weight("default")).T))


@pytest.mark.parametrize("name", operators.NAMES)
def test_other_gradients_of_the_input_are_not_overwritten(name):
    """The gradient of the update is added in place to the gradient of the base, which no other code may hold."""
    layer, x = layer_and_input(name)
    layer, x = layer.double(), x.detach().double().requires_grad_()
    gradients = []
    y = x * 1.0
    y.register_hook(gradients.append)
    total = layer(y).sum() + (y * 3).sum() + layer(y).square().sum()
    (gradient,) = torch.autograd.grad(total, x, retain_graph=True)
    copy = gradients[0].clone()
    (second_gradient,) = torch.autograd.grad(total, x)
    assert torch.equal(gradient, second_gradient)
    assert torch.equal(gradients[0], copy)
    W = layer.base_layer.weight + layer.get_delta_weight("default")
    output = x @ W.T + layer.base_layer.bias
    torch.testing.assert_close(gradient, W.sum(0) + 3 + 2 * output @ W)
