"""Each method trains the parameters, and at the learning rates, that its file names."""

import math
import os

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from experiments.errors import ConfigError
from experiments.spec import counting, methods
from experiments.spec.shapes import NAMED
from experiments.train import adapt as adapting
from experiments.train import cost
from experiments.train.base_models import tiny_model
from experiments.train.trainer import RunTrainer
from experiments.train.warm_start import WarmStart

from ..conftest import some_slow
from .test_all_methods import NAMES, expected_warnings

LAYERS, LINEARS = NAMED["tiny"].layers, NAMED["tiny"].linears().values()
RANK = 3

FORMULAS = {
    "none": 0,
    "fft": sum(p.numel() for p in tiny_model().parameters()),
    "lora": LAYERS * sum(RANK * (k + d) for k, d in LINEARS),
    "dora": LAYERS * sum((RANK - 1) * (k + d) + d for k, d in LINEARS),
    "mora": LAYERS * sum(math.isqrt((k + d) * RANK) ** 2 for k, d in LINEARS),
}
FORMULAS |= dict.fromkeys(("lora_plus", "asylora", "relora", "rslora", "pissa"), FORMULAS["lora"])
FORMULAS |= dict.fromkeys(("remora", "randproj"), FORMULAS["mora"])


def adapt(smoke, name: str, *overrides: str) -> adapting.AdaptedModel:
    rank = () if name in ("none", "fft") else (f"method.rank={RANK}",)
    torch.manual_seed(0)
    return adapting.adapt(tiny_model(), smoke(f"method={name}", *rank, *overrides))


def test_every_method_has_a_formula_here_or_a_budget_to_spend(smoke):
    others = set(methods.names()) - set(FORMULAS)
    assert [name for name in others if smoke(f"method={name}").method.budget is None] == []


@pytest.mark.parametrize("name", FORMULAS)
def test_trainable_parameters_equal_the_formula(name, smoke):
    trainable, total = cost.count_parameters(adapt(smoke, name).model)
    assert trainable == FORMULAS[name]
    assert total == FORMULAS["fft"] + (0 if name in ("none", "fft") else trainable)


@expected_warnings
@pytest.mark.parametrize("name", some_slow(NAMES, ["adalora", "lora", "mora"]))
def test_the_number_format_of_the_base_does_not_change_what_trains(name, smoke):
    config = smoke(f"method={name}", "method.rank=8")
    in_float32, in_bf16 = (adapting.adapt(tiny_model().to(dtype), config) for dtype in (torch.float32, torch.bfloat16))
    trained = [[n for n, p in adapted.model.named_parameters() if p.requires_grad] for adapted in (in_float32, in_bf16)]
    assert trained[0] == trained[1]


@expected_warnings
@pytest.mark.parametrize("name", some_slow(NAMES, ["boft", "lora"]))
def test_the_environment_stays_as_it_was(name, smoke, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    before = dict(os.environ)
    adapting.adapt(tiny_model(), smoke(f"method={name}", "method.rank=8"))
    assert dict(os.environ) == before


def test_mora_never_has_more_than_lora():
    assert FORMULAS["mora"] <= FORMULAS["lora"]


def test_asylora_starts_with_orthonormal_rows_and_trains_them(smoke):
    model = adapt(smoke, "asylora").model
    parameters = [p for n, p in model.named_parameters() if "lora_A" in n]
    assert parameters
    for parameter in parameters:
        torch.testing.assert_close(parameter @ parameter.T, torch.eye(RANK), atol=1e-5, rtol=1e-5)
        assert parameter.requires_grad


def test_dora_is_pefts(smoke):
    model = adapt(smoke, "dora").model
    assert any("lora_magnitude_vector" in name for name, _ in model.named_parameters())


def optimizer_of(smoke, name: str, *overrides: str):
    config = smoke(f"method={name}", f"method.rank={RANK}", *overrides)
    adapted = adapt(smoke, name, *overrides)
    trainer = RunTrainer.__new__(RunTrainer)
    trainer.config, trainer.rates, trainer.model, trainer.optimizer = config, adapted.rates, adapted.model, None
    trainer.warm_start = WarmStart(adapted.model, config)
    return adapted.model, trainer.create_optimizer(), config


@pytest.mark.parametrize("ratio", [2, 4])
def test_lora_plus_rates_are_those_of_pefts_optimizer(smoke, ratio):
    model, optimizer, config = optimizer_of(smoke, "lora_plus", f"method.lr_ratio={ratio}")
    t = config.training
    reference = create_loraplus_optimizer(model, torch.optim.AdamW, lr=t.learning_rate, loraplus_lr_ratio=ratio)

    def rates(optimizer):
        return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    assert rates(optimizer) == pytest.approx(rates(reference))
    assert set(rates(optimizer).values()) == {t.learning_rate, ratio * t.learning_rate}


@pytest.mark.parametrize("name", ["lora", "fft"])
def test_a_rate_ratio_needs_a_trained_parameter(name, smoke):
    """A misspelt name would have no effect. The ratios of full training count, too."""
    config = smoke(f"method={name}")

    def rates(**ratios):
        method = config.method.replace(rate_ratios=ratios)
        return adapting.adapt(tiny_model(), config.replace(method=method)).rates

    found = rates(q_proj=0.5, k_proj=2.0)
    assert set(found.values()) == {0.5, 2.0}
    assert all(("q_proj" in parameter) == (rate == 0.5) for parameter, rate in found.items())
    with pytest.raises(ConfigError, match=r"rate_ratios names 'lora_Q', and no trained parameter .*; allowed: .*proj"):
        rates(lora_Q=4.0)


def test_other_methods_train_at_one_rate(smoke):
    _, optimizer, config = optimizer_of(smoke, "mora")
    assert [group["lr"] for group in optimizer.param_groups] == [config.training.learning_rate]


@pytest.mark.parametrize("name", ["lora", "mora"])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("float32", {"lora": "float32", "mora": "float32"}),
        ("base", {"lora": "bfloat16", "mora": "bfloat16"}),
        ("official", {"lora": "bfloat16", "mora": "float32"}),
    ],
)
def test_the_adapters_number_format_is_one_policy(name, policy, expected, smoke):
    config = smoke(f"method={name}", f"training.adapter_dtype={policy}")
    adapted = adapting.adapt(tiny_model().to(torch.bfloat16), config)
    assert cost.adapter_dtype(adapted.model) == expected[name]


@pytest.mark.parametrize("name", ["lora", "mora", "relora", "remora"])
def test_in_pretraining_everything_but_the_adapted_weights_trains(name, smoke):
    model = adapt(smoke, name, "method.train_rest=true").model
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if n.endswith("base_layer.weight")}
    assert len(frozen) == 7 * LAYERS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+method.peft.foo=3"], "method.peft of method=lora: .*foo"),
        (["method.peft.peft_type=NINTH"], r"method\.peft\.peft_type must be one of .*LORA, .*MORA, .*got 'NINTH'"),
        (["+method.initialisation=foo"], "method.initialisation must be one of orthonormal, got 'foo'"),
    ],
)
def test_what_peft_does_not_take_is_one_line(smoke, overrides, message):
    with pytest.raises(ConfigError, match=message):
        adapt(smoke, "lora", *overrides)


def test_full_fine_tuning_of_some_layers(smoke):
    model = adapt(smoke, "fft", "method.target_modules=[q_proj,down_proj]").model
    trained = {name.rsplit(".", 2)[-2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "down_proj"}


def test_an_adapter_that_trains_nothing_is_refused(smoke, monkeypatch):
    """Such as a tuner of somebody's own that forgets to mark its parameters."""

    def frozen(model, config, **options):
        return counting.wrapped(model, config, **options).requires_grad_(False)

    monkeypatch.setattr(adapting, "wrapped", frozen)
    with pytest.raises(ConfigError, match=r"^method=lora: its adapter trains no parameters$"):
        adapt(smoke, "lora")
