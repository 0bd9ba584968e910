"""Merging into weights that FSDP2 has sharded over two ranks. The ranks are real processes over gloo."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from mora import MoraConfig, conversion, operators, sharded
from mora.experts import ParamWrapper

from ...process_groups import on_two_ranks, one_rank
from .conftest import Case, assert_close

MERGED = ("sharing", "truncation")  # the operators whose updates have parts


def adapted_and_sharded(case):
    """A sharded model, the base weights and the updates of its layers before, and its logits before."""
    model = case.adapted()
    layers = case.layers(model)
    weights = {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()}
    deltas = {name: layer.get_delta_weight("default") for name, layer in layers.items()}
    logits = case.logits(model)
    mesh = init_device_mesh("cpu", (2,))
    for block in model.get_base_model().transformer.h if case.architecture == "gpt2" else ():
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh), weights, deltas, logits


def assert_weights(case, model, expected):
    for name, layer in case.layers(model).items():
        assert_close(sharded.whole(layer.get_base_layer().weight), expected[name])


def merge_and_unmerge():
    for case in (Case(a, operator) for a in ("llama", "gpt2") for operator in MERGED):
        model, weights, deltas, logits = adapted_and_sharded(case)
        for safe_merge in (False, True):
            for name, layer in case.layers(model).items():
                assert_close(layer.get_delta_weight("default"), deltas[name])
            model.merge_adapter(safe_merge=safe_merge)
            assert_weights(case, model, {name: weights[name] + deltas[name] for name in weights})
            assert_close(case.logits(model), logits)
            sharded.reshard(model)
            assert_weights(case, model, {name: weights[name] + deltas[name] for name in weights})
            model.unmerge_adapter()
            assert_weights(case, model, weights)


def refuse_other_operators():
    for operator in set(operators.NAMES) - set(MERGED):
        case = Case("gpt2", operator)
        model, weights, _, logits = adapted_and_sharded(case)
        with pytest.raises(ValueError, match=f"only sharing and truncation .* got {operator} on a layer with in=24"):
            model.merge_adapter()
        assert not any(layer.merged for layer in case.layers(model).values())
        assert_weights(case, model, weights)
        assert_close(case.logits(model), logits)


def refuse_broken_values_on_all_ranks():
    """Truncation adds the broken value to a row of the first rank alone."""
    case = Case("llama", "truncation")
    model, weights, _, _ = adapted_and_sharded(case)
    for layer in case.layers(model).values():
        M = layer.mora_M["default"]
        sharded.write_(M.data, torch.diag(torch.full((len(M),), torch.nan)))
    with pytest.raises(ValueError, match="the merged weight is not finite"):
        model.merge_adapter(safe_merge=True)
    assert_weights(case, model, weights)


def refuse_to_unmerge_gathered_weights():
    """FSDP would drop the change, and the update would then count twice."""
    case = Case("gpt2", "sharing")
    model, weights, _, logits = adapted_and_sharded(case)
    model.merge_adapter()
    with model.disable_adapter(), pytest.raises(ValueError, match=r"call reshard\(\) on the FSDP modules"):
        case.logits(model)
    sharded.reshard(model)
    assert_close(case.logits(model), logits)
    sharded.reshard(model)
    model.unmerge_adapter()
    assert_weights(case, model, weights)


def convert():
    case = Case("llama", "sharing")
    expected = conversion.as_lora(case.adapted()).weights
    model, *_ = adapted_and_sharded(case)
    found = conversion.as_lora(model).weights
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "check",
    [
        convert,
        merge_and_unmerge,
        refuse_other_operators,
        refuse_broken_values_on_all_ranks,
        refuse_to_unmerge_gathered_weights,
    ],
)
def test_on_two_ranks(check, tmp_path):
    on_two_ranks(check, tmp_path)


def test_sharded_parameters_of_experts_are_refused():
    with one_rank():
        experts = nn.Module()
        W = torch.randn(3, 6, 4)
        experts.up = nn.Parameter(distribute_tensor(W, init_device_mesh("cpu", (1,)), [Shard(0)]))
        config = MoraConfig(r=1, operator="sharing", init_weights=False, target_parameters=["up"])
        layer = ParamWrapper(experts, "default", config, parameter_name="up")
        with pytest.raises(ValueError, match=r"an adapter is not merged into a sharded parameter \(up\)"):
            layer.merge()
        assert not layer.merged
        assert torch.equal(experts.up.full_tensor(), W)
