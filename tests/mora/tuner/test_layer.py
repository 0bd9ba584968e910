"""MoraLinear without a model around it."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mora import MoraConfig, MoraLinear, fused, operators

BASES = {
    "linear": lambda k, d: nn.Linear(k, d),
    "linear without bias": lambda k, d: nn.Linear(k, d, bias=False),
    "conv1d": lambda k, d: Conv1D(d, k),
}


@pytest.fixture(params=operators.NAMES)
def operator(request):
    return request.param


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]


def adapted(base_layer: nn.Module, operator: str, dtype: torch.dtype = torch.float64, **options) -> MoraLinear:
    """A frozen layer with an adapter whose M is random."""
    torch.manual_seed(0)
    base_layer.requires_grad_(False)
    config = MoraConfig(r=2, operator=operator, init_weights=False, **options)
    return MoraLinear(base_layer, "default", config).to(dtype)


def dense(layer: MoraLinear, x: torch.Tensor) -> torch.Tensor:
    """The output of the layer, computed with the dense update of each active adapter (Eq. 3)."""
    y = layer.base_layer(x)
    for name in layer.active_adapters:
        y = y + x @ layer.mora_operator[name].delta_weight(layer.mora_M[name]).T.to(x.dtype)
    return y


def assert_same_gradients(layer, function, reference, x):
    """`function(layer, x)` equals `reference(layer, x)`, and so do the gradients of x and of every active M."""
    inputs = [x, *(layer.mora_M[name] for name in layer.active_adapters)]
    results = [
        (y, *torch.autograd.grad(y.square().sum(), inputs)) for y in (f(layer, x) for f in (function, reference))
    ]
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("k", "d"), [(12, 12), (10, 14), (23, 7), (7, 23), (1, 5), (5, 1)])
def test_equals_the_dense_update(base, operator, k, d):
    layer = adapted(base(k, d), operator)
    x = torch.randn(3, 5, k, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(layer, MoraLinear.__call__, dense, x)


@pytest.mark.parametrize("tokens", [1, 5, 6])
def test_equals_the_dense_update_for_few_tokens(base, operator, tokens):
    """For a block operator the layer turns either the rows of x or the rows of M: the smaller number of rows."""
    layer = adapted(base(10, 14), operator)
    assert layer.mora_operator["default"].r_hat == 6
    x = torch.randn(tokens, 10, dtype=torch.float64, requires_grad=True)
    assert fused.pays(layer.mora_operator["default"], x) == (tokens == 6 or operator in operators.FACTORED)
    assert_same_gradients(layer, MoraLinear.__call__, dense, x)


@pytest.mark.parametrize("surplus", operators.SURPLUS)
def test_equals_the_dense_update_without_wrapping(operator, surplus):
    layer = adapted(nn.Linear(23, 7), operator, wrap=False, surplus=surplus)
    x = torch.randn(5, 23, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(layer, MoraLinear.__call__, dense, x)


def test_several_active_adapters_add_up(base):
    layer = adapted(base(10, 14), "sharing")
    for r, name in enumerate(operators.NAMES, start=1):
        layer.update_layer(name, MoraConfig(r=r, operator=name, init_weights=False))
    layer.set_adapter(["default", *operators.NAMES])
    x = torch.randn(5, 10, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(layer.double(), MoraLinear.__call__, dense, x)


def test_used_twice_in_a_forward_pass(base, operator):
    layer = adapted(base(12, 12), operator)
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(layer, lambda f, x: f(f(x).tanh()), lambda f, x: dense(f, dense(f, x).tanh()), x)


def test_an_input_without_gradient(base, operator):
    # In the first layer of a model only M needs a gradient.
    layer = adapted(base(10, 14), operator)
    x = torch.randn(4, 10, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), layer.mora_M["default"])
    (expected,) = torch.autograd.grad(dense(layer, x).square().sum(), layer.mora_M["default"])
    torch.testing.assert_close(gradient, expected)


def test_a_frozen_adapter_passes_the_gradient_on(base, operator):
    layer = adapted(base(10, 14), operator).requires_grad_(False)
    x = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
    (expected,) = torch.autograd.grad(dense(layer, x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_a_base_layer_with_a_trainable_weight(base, operator):
    layer = adapted(base(10, 14), operator)
    layer.base_layer.requires_grad_(True)
    x = torch.randn(4, 10, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), layer.base_layer.weight)
    (expected,) = torch.autograd.grad(dense(layer, x).square().sum(), layer.base_layer.weight)
    torch.testing.assert_close(gradient, expected)


def test_any_leading_shape_and_stride(operator):
    layer = adapted(nn.Linear(10, 14), operator)  # no Conv1D: it accepts only contiguous inputs
    x = torch.randn(2, 3, 4, 10, dtype=torch.float64)
    y = layer(x)
    torch.testing.assert_close(y, dense(layer, x))
    torch.testing.assert_close(layer(x[0, 0, 0]), y[0, 0, 0])
    torch.testing.assert_close(layer(x.transpose(0, 2)), y.transpose(0, 2))
    torch.testing.assert_close(layer(x[..., 1:2, :].expand(2, 3, 4, 10)), y[..., 1:2, :].expand(2, 3, 4, 14))
    assert layer(x[:0]).shape == (0, 3, 4, 14)


def test_the_result_may_be_changed_in_place(base, operator):
    # Residual connections and activations change the output of a linear layer in place.
    layer = adapted(base(10, 14), operator)
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(layer, lambda f, x: f(x).mul_(2).relu_(), lambda f, x: (dense(f, x) * 2).relu(), x)


def test_input_and_base_output_do_not_change(base, operator):
    layer = adapted(base(10, 14), operator)
    outputs = []
    layer.base_layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    x = torch.randn(2, 3, 10, dtype=torch.float64)
    before = x.clone()
    layer(x)
    assert torch.equal(x, before)
    (base_output,) = outputs
    torch.testing.assert_close(base_output, layer.base_layer(x))


@pytest.mark.parametrize("k", [10, 23])
def test_bf16_base_with_float32_adapter(operator, k):
    # The update is computed in float32 and rounded once, to bfloat16.
    layer = adapted(nn.Linear(k, 14), operator, torch.float32)
    layer.base_layer.bfloat16()
    x = torch.randn(6, k).bfloat16().requires_grad_()
    y = layer(x)
    assert y.dtype == torch.bfloat16
    delta = layer.get_delta_weight("default")
    expected = layer.base_layer(x).float() + x.float() @ delta.T
    torch.testing.assert_close(y.float(), expected, rtol=2**-7, atol=2**-7)
    grad_x, grad_M = torch.autograd.grad(y.float().square().sum(), [x, layer.mora_M["default"]])
    assert (grad_x.dtype, grad_M.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(operator, dtype):
    layer = adapted(nn.Linear(10, 14), operator, torch.float32)
    layer.base_layer.to(dtype)
    x = torch.randn(6, 10, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    grads = torch.autograd.grad(y.float().square().sum(), [x, layer.mora_M["default"]])
    assert [g.dtype for g in grads] == [dtype, torch.float32]
    exact = copy.deepcopy(layer).double()
    x = x.detach().double().requires_grad_()
    y = exact(x)
    for actual, expected in zip(
        grads, torch.autograd.grad(y.square().sum(), [x, exact.mora_M["default"]]), strict=True
    ):
        torch.testing.assert_close(actual.double(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize("training", [True, False])
def test_compile_finds_no_graph_break(base, operator, training):
    layer = adapted(base(10, 14), operator, mora_dropout=0.1).train(training)
    x = torch.randn(3, 5, 10, dtype=torch.float64, requires_grad=training)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        torch.manual_seed(1)
        with torch.set_grad_enabled(training):
            y = function(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, layer.mora_M["default"]]) if training else ()
        results.append((y, *gradients))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_delta_weight_is_in_the_layout_of_the_base_weight(base, operator):
    layer = adapted(base(6, 10), operator)
    assert layer.get_delta_weight("default").shape == layer.base_layer.weight.shape
    before = layer.base_layer.weight.clone()
    layer.merge()
    torch.testing.assert_close(layer.base_layer.weight - before, layer.get_delta_weight("default"))


class Router(nn.Linear):
    """As the routers of Llama 4 and of Phi-3.5-MoE: a subclass of nn.Linear that returns two tensors."""

    def forward(self, x):
        return super().forward(x), x


class Blocks(nn.Linear):
    """As the grouped projection of DeepSeek-V4: a subclass of nn.Linear with outputs of another shape."""

    def forward(self, x):
        return super().forward(x)[..., ::2]


@pytest.mark.parametrize(("kind", "got"), [(Router, "a tuple"), (Blocks, r"\(2, 6\)")])
@pytest.mark.parametrize("options", [{}, {"adapter_names": ["default", "default"]}])
def test_a_layer_that_does_not_return_its_product_is_refused(kind, got, options):
    layer = adapted(kind(8, 12), "sharing", torch.float32)
    message = rf"^a {kind.__name__} must return one tensor of shape \(2, 12\) .*, got {got}; .* exclude_modules$"
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(2, 8), **options)


@pytest.mark.parametrize("rows", [3, 64])
def test_a_forward_pass_on_the_meta_device(base, operator, rows):
    layer = adapted(base(8, 6), operator, torch.float32).to("meta")
    assert layer(torch.empty(rows, 8, device="meta")).shape == (rows, 6)
