"""Conversion to LoRA: exact factors and closest factors."""

import pytest
import torch
from peft import MissConfig, get_peft_model
from torch import nn

from mora import MoraConfig, operators
from mora.conversion import as_lora, as_miss, closest_factors, lora_factors

GROUPED = [
    ("truncation", {}),
    *(("sharing", {"in_groups": a, "out_groups": b}) for a in operators.GROUPS for b in operators.GROUPS),
    ("sharing", {"wrap": False}),
]


@pytest.mark.parametrize(("name", "options"), GROUPED)
@pytest.mark.parametrize("sizes", [(12, 12, 4), (10, 7, 4), (7, 23, 5), (3, 4, 9)])
def test_the_factors_are_the_update(name, options, sizes):
    operator = operators.build(name, *sizes, **options)
    M = torch.randn(operator.r_hat, operator.r_hat, dtype=torch.float64)
    A, B = lora_factors(operator, M)
    assert A.shape == (operator.r_hat, operator.in_features)
    assert B.shape == (operator.out_features, operator.r_hat)
    assert set(A.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(B @ A, operator.delta_weight(M), atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", operators.BLOCKED)
def test_the_block_operators_have_no_exact_factors(name):
    operator = operators.build(name, 12, 12, 4)
    with pytest.raises(ValueError, match="full rank"):
        lora_factors(operator, torch.randn(4, 4))


def test_the_error_of_the_closest_factors_is_the_norm_of_the_other_singular_values():
    delta = torch.randn(9, 6, dtype=torch.float64)
    A, B = closest_factors(delta, 4)
    expected = torch.linalg.svdvals(delta)[4:].square().sum().sqrt()
    torch.testing.assert_close((B @ A - delta).norm(), expected)
    with pytest.raises(ValueError, match="from 1 to 6"):
        closest_factors(delta, 7)


class LayersOfDifferentSizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.same = nn.Linear(12, 30), nn.Linear(30, 12), nn.Linear(12, 12)

    def forward(self, x):
        return self.same(self.down(self.up(x)))


def mora_model(**options):
    config = MoraConfig(r=2, target_modules=["up", "down", "same"], init_weights=False, **options)
    return get_peft_model(LayersOfDifferentSizes(), config)


def test_each_layer_has_its_rank_and_scale_1():
    lora = as_lora(mora_model(operator="sharing"))
    assert lora.error == 0
    ranks = {name: lora.config.rank_pattern.get(f"^{name}", lora.config.r) for name in ("up", "down", "same")}
    assert ranks == {"up": 9, "down": 9, "same": 6}
    assert lora.config.alpha_pattern == lora.config.rank_pattern
    assert lora.config.lora_alpha == lora.config.r
    assert lora.weights["base_model.model.up.lora_A.weight"].shape == (9, 12)


def test_a_rank_gives_the_closest_factors_of_any_operator():
    small, full = (as_lora(mora_model(operator="rotation"), rank=rank) for rank in (3, 99))
    assert 0 < small.error < 1
    assert full.error < 1e-6
    assert small.worst in ("up", "down", "same")


@pytest.mark.parametrize("rank", [2.5, "8", True, 0])
def test_a_rank_that_is_no_integer_is_refused(rank):
    with pytest.raises(ValueError, match=rf"^rank must be an integer of at least 1, or None .*, got {rank!r}$"):
        as_lora(mora_model(operator="rotation"), rank=rank)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_of_rounded_factors_is_measured(dtype):
    model = mora_model(operator="randproj").to(dtype)
    lora, layer = as_lora(model), model.get_base_model().up
    delta = layer.mora_operator["default"].delta_weight(layer.mora_M["default"].detach().double())
    A, B = (lora.weights[f"base_model.model.up.lora_{name}.weight"].double() for name in "AB")
    error = float((B @ A - delta).norm() / delta.norm())
    assert 0 < error <= lora.error < 10 * torch.finfo(dtype).eps
    assert as_lora(mora_model(operator="sharing").to(dtype)).error == 0


@pytest.mark.parametrize("convert", [as_lora, as_miss])
def test_an_unknown_adapter_is_named(convert):
    with pytest.raises(ValueError, match=r"^there is no adapter 'nope'; allowed: default$"):
        convert(mora_model(operator="sharing"), "nope")


def test_adapters_without_an_equal_lora_are_refused():
    with pytest.raises(ValueError, match="full rank"):
        as_lora(mora_model(operator="rotation"))
    with pytest.raises(ValueError, match="biases"):
        as_lora(mora_model(operator="sharing", bias="all"))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2.4e-7), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("k", "d"), [(256, 256), (256, 512)])
def test_miss_mini_is_strided_sharing_with_m_transposed(k, d, dtype, limit):
    """The output and the merged update, and in float64 the gradients too. The outputs are below 1."""
    q = 64
    base = nn.Linear(k, d, bias=False, dtype=dtype).requires_grad_(False)
    nn.init.zeros_(base.weight)  # so that the output is that of the adapter alone
    config = MissConfig(r=q, mini_r=q, init_weights="mini", target_modules=["0"])
    miss = get_peft_model(nn.Sequential(base), config).base_model.model[0].to(dtype)
    x, M, direction = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        for seed, shape in enumerate([(32, k), (q, q), (32, d)])
    )
    x.requires_grad_()
    M = (M / 128).requires_grad_()
    block = miss.miss_block["default"]
    block.data = M.detach().T.clone()
    operator = operators.build("sharing", k, d, q)
    own, other = operator.apply(x, M), miss(x)
    assert own.abs().max() < 1
    assert (own - other).abs().max() <= limit
    if dtype == torch.float64:
        grad_x, grad_M = torch.autograd.grad(own, (x, M), direction)
        miss_grad_x, grad_block = torch.autograd.grad(other, (x, block), direction)
        torch.testing.assert_close(miss_grad_x, grad_x)
        torch.testing.assert_close(grad_block.T, grad_M)
    miss.merge()
    assert torch.equal(base.weight, operator.delta_weight(M.detach()))


def adapted_square(k=12, d=12, r=6, **options):
    return get_peft_model(nn.Sequential(nn.Linear(k, d)), MoraConfig(r=r, target_modules=["0"], **options))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: adapted_square(operator="truncation"), "only the operator sharing .* got truncation"),
        (lambda: adapted_square(operator="sharing", out_groups="contiguous"), "got sharing .strided, contiguous"),
        (lambda: adapted_square(r=4, operator="sharing"), "r_hat must divide the outputs, got r_hat=9 and 12"),
        (lambda: adapted_square(15, 12, r=3, operator="sharing"), "r_hat must divide the outputs, got r_hat=9 and 12"),
        (lambda: adapted_square(20, 12, r=5, operator="sharing"), "r_hat must divide the inputs .* r_hat=12 and 20"),
        (lambda: adapted_square(8, 28, r=22, operator="sharing"), "r_hat must not exceed the inputs, got r_hat=28"),
        (lambda: mora_model(operator="sharing"), "r_hat must divide the outputs"),
        (lambda: adapted_square(operator="sharing", bias="all"), "biases"),
    ],
)
def test_adapters_without_an_equal_miss_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        as_miss(model())


def test_layers_of_different_r_hat_are_no_miss_adapter():
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(24, 24))
    config = MoraConfig(r=6, rank_pattern={"1": 12}, operator="sharing", target_modules=["0", "1"])
    with pytest.raises(ValueError, match="one r_hat for all layers, but 0 has 12 and 1 has 24"):
        as_miss(get_peft_model(model, config))


def test_without_wrapping_the_inputs_may_be_padded():
    model = adapted_square(20, 12, r=5, operator="sharing", wrap=False, init_weights=False)
    miss = as_miss(model)
    loaded = get_peft_model(nn.Sequential(model.base_model.model[0].base_layer), miss.config)
    loaded.base_model.model[0].miss_block["default"].data = miss.weights["base_model.model.0.miss_block"]
    x = torch.randn(3, 20)
    torch.testing.assert_close(loaded(x), model(x))
