"""The control operator randproj: its random matrices, and where they are computed."""

import copy

import pytest
import torch
from hypothesis import given
from peft import PeftModel, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mora import MoraConfig, operators, projected
from mora.conversion import lora_factors
from mora.projected import Projection

from .test_operators import sizes, squares

# R for the sizes 3 and 2 and the seed 7. An adapter file does not hold R, so every version must compute the same R.
NUMBERS = [[-0.0925115, 0.5966949, 1.0655500], [0.9617890, -0.6229333, 0.4323379]]


def operator(k=12, d=9, q=5, seed=0):
    return operators.build("randproj", k, d, q, seed=seed)


@given(sizes, squares)
def test_the_rows_or_the_columns_are_orthonormal_and_a_feature_weighs_1_on_average(size, q):
    R = Projection(size, q, 0).matrix(torch.zeros(0, dtype=torch.float64))
    assert R.shape == (q, size)
    product = R @ R.T if q <= size else R.T @ R
    expected = torch.eye(min(q, size), dtype=torch.float64) * max(1.0, size / q)
    torch.testing.assert_close(product, expected, rtol=0, atol=1e-12)
    assert R.square().sum(0).mean().item() == pytest.approx(1.0)


def test_the_size_of_the_update_is_that_of_sharing():
    k, d, q = 512, 384, 64  # q divides both, so no input counts twice
    M = torch.randn(q, q, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norms = [operators.build(name, k, d, q).delta_weight(M).norm() for name in ("randproj", "sharing")]
    torch.testing.assert_close(*norms)


def test_the_seed_decides_and_the_two_sides_differ():
    M = torch.randn(5, 5)
    assert torch.equal(operator().delta_weight(M), operator().delta_weight(M))
    projected.random_matrix.cache_clear()
    first = operator(seed=1).delta_weight(M)
    projected.random_matrix.cache_clear()
    assert torch.equal(operator(seed=1).delta_weight(M), first)
    assert not torch.allclose(operator(seed=2).delta_weight(M), first, atol=0.1)
    square = operator(12, 12)
    like = torch.zeros(0)
    assert not torch.allclose(square.inputs.matrix(like), square.outputs.matrix(like), atol=0.1)


def test_the_numbers_stay_the_same_from_version_to_version():
    R = Projection(3, 2, 7).matrix(torch.zeros(0))
    torch.testing.assert_close(R, torch.tensor(NUMBERS), rtol=0, atol=1e-6)


def test_matrices_that_were_first_used_in_inference_mode_can_be_used_in_training():
    projected.random_matrix.cache_clear()
    layer = get_peft_model(nn.Sequential(nn.Linear(12, 9)), MoraConfig(r=2, operator="randproj", target_modules=["0"]))
    with torch.inference_mode():
        layer(torch.randn(3, 12))
    layer(torch.randn(3, 12, requires_grad=True)).sum().backward()


def test_a_dry_run_computes_no_matrix():
    projected.random_matrix.cache_clear()
    with FakeTensorMode():
        assert operator().apply(torch.randn(4, 12), torch.randn(5, 5)).shape == (4, 9)
    assert operator().delta_weight(torch.empty(5, 5, device="meta")).shape == (9, 12)
    assert projected.random_matrix.cache_info().currsize == 0
    with torch.device("meta"):
        y = operator().compress(torch.ones(12, device="cpu"))
    assert y.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cached", [1, 2**17])
def test_a_merge_into_a_weight_of_another_dtype_is_rounded_once(dtype, cached, monkeypatch):
    monkeypatch.setattr(projected, "CACHED", cached)
    weight, M = torch.randn(9, 12).to(dtype), torch.randn(5, 5, dtype=torch.float64)
    expected = weight.double() - operator().delta_weight(M)
    actual = operator().add_delta_(weight.clone(), M, -1.0).double()
    torch.testing.assert_close(actual, expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


@given(sizes, sizes, squares)
def test_the_factors_of_the_lora_are_the_update(k, d, q):
    M = torch.randn(q, q, dtype=torch.float64)
    A, B = lora_factors(operator(k, d, q), M)
    assert A.shape == (q, k)
    assert B.shape == (d, q)
    torch.testing.assert_close(B @ A, operator(k, d, q).delta_weight(M), rtol=0, atol=1e-10)


def test_an_adapter_file_holds_m_alone_and_loads_again(tmp_path):
    base = nn.Sequential(nn.Linear(12, 9), nn.Linear(9, 12))
    config = MoraConfig(r=2, operator="randproj", projection_seed=4, init_weights=False, target_modules=["0", "1"])
    model = get_peft_model(copy.deepcopy(base), config)
    model.save_pretrained(tmp_path)
    projected.random_matrix.cache_clear()
    again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert again.peft_config["default"].projection_seed == 4
    x = torch.randn(3, 12)
    assert torch.equal(again(x), model(x))
    q = model.base_model.model[0].mora_operator["default"].r_hat
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert 2 * q * q * 4 < size < 2 * q * q * 4 + 1024
