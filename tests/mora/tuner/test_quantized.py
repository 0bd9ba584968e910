"""Quantized base layers with a small backend of our own for PEFT. tests/test_quantization.py tests bitsandbytes."""

import pytest
import torch
from peft import get_peft_model
from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend, QuantizationBackend
from torch import nn

import mora.layer
import mora.model
from mora import MoraConfig, operators


class Int8Linear(nn.Linear):
    """A frozen linear layer with int8 weights and one scale for each output. As in bitsandbytes, it is an nn.Linear."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.quantize(linear.weight.detach())

    def quantize(self, weight: torch.Tensor) -> None:
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)

    def dequantize(self) -> torch.Tensor:
        return self.weight * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.dequantize().T


class Int8Backend(QuantizationBackend):
    supports_merge = True
    backend_name = "int8"
    layer_type = "linear"

    def get_base_weight(self, base_layer):
        return base_layer.dequantize()

    def set_base_weight(self, peft_layer, weight_data):
        peft_layer.get_base_layer().quantize(weight_data)


@pytest.fixture(params=operators.NAMES)
def adapted(request, monkeypatch):
    """`adapted(backend)` returns a model of one quantized layer with an adapter."""

    def build(backend):
        def resolve(base_layer, **kwargs):
            return backend if isinstance(base_layer, Int8Linear) else None

        monkeypatch.setattr(mora.layer, "resolve_quantization_backend", resolve)
        monkeypatch.setattr(mora.model, "resolve_quantization_backend", resolve)
        torch.manual_seed(0)
        base = nn.Sequential(Int8Linear(nn.Linear(20, 14)))
        config = MoraConfig(r=2, operator=request.param, target_modules=["0"], init_weights=False)
        return get_peft_model(base, config)

    return build


def test_training_on_a_quantized_base(adapted):
    model = adapted(Int8Backend())
    layer = model.base_model.model[0]
    x = torch.randn(5, 20)
    torch.testing.assert_close(model(x), x @ (layer.get_base_weight() + layer.get_delta_weight("default")).T)
    model(x).square().sum().backward()
    M = layer.mora_M["default"]
    assert M.dtype == torch.float32
    assert M.grad.abs().max() > 0


@pytest.mark.parametrize("safe_merge", [True, False])
def test_a_merge_that_would_round_is_refused_with_the_size_of_the_error(adapted, safe_merge):
    model = adapted(Int8Backend())
    layer = model.base_model.model[0]
    base, update = layer.get_base_layer(), layer.get_delta_weight("default")
    weight, scale = base.weight.clone(), base.scale.clone()
    merged = base.dequantize() + update
    rounded = Int8Linear(nn.Linear(20, 14))
    rounded.quantize(merged)
    error = ((rounded.dequantize() - merged).norm() / update.norm()).item()
    with pytest.raises(ValueError, match=f"off by {error:.3g} times the update"):
        layer.merge(safe_merge=safe_merge)
    assert torch.equal(base.weight, weight)
    assert torch.equal(base.scale, scale)
    assert not layer.merged


def test_an_update_without_rounding_is_merged(adapted):
    model = adapted(Int8Backend())
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.mora_M["default"].zero_()
    before = layer.get_base_weight()
    model.merge_adapter()
    assert layer.merged
    assert layer.get_base_layer().weight.dtype == torch.int8
    torch.testing.assert_close(layer.get_base_weight(), before, rtol=1e-6, atol=0)
    model.unmerge_adapter()
    torch.testing.assert_close(layer.get_base_weight(), before, rtol=1e-6, atol=0)


def test_a_backend_that_cannot_write_raises_an_error(adapted):
    model = adapted(ForwardOnlyQuantizationBackend("gptq"))
    x = torch.randn(5, 20)
    before = model(x)
    with pytest.raises(TypeError, match="gptq"):
        model.merge_adapter()
    assert torch.equal(model(x), before)
