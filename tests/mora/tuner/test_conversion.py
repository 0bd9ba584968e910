"""Conversion to LoRA: exact factors and closest factors."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from mora import MoraConfig, operators
from mora.conversion import as_lora, closest_factors, lora_factors

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
    assert set(A.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    torch.testing.assert_close(B @ A, operator.delta_weight(M), atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", ["decouple", "rotation"])
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


def test_adapters_without_an_equal_lora_are_refused():
    with pytest.raises(ValueError, match="full rank"):
        as_lora(mora_model(operator="rotation"))
    with pytest.raises(ValueError, match="biases"):
        as_lora(mora_model(operator="sharing", bias="all"))
