"""A method spends its budget: the setting that trains the most parameters, and no more than LoRA of the rank."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.errors import ConfigError
from experiments.spec import budgets, counting, methods
from experiments.spec.shapes import NAMED, lora_parameters
from experiments.train import adapt, cost
from experiments.train.base_models import tiny_model

SIZES = Counter([(64, 64), (64, 64), (64, 192), (192, 64)])
SPENDERS = [name for name in methods.names() if methods.settings(name).get("budget")]


def spent(smoke, tmp_path, name, *arguments, sizes=SIZES):
    method = smoke(f"method={name}", *arguments).method
    return budgets.spent(method, sizes.elements(), tmp_path)


def trainable(method, sizes=SIZES):
    return counting.trainable(method, sizes)


@given(st.integers(1, 40), st.integers(0, 500), st.integers(1, 20_000), st.sampled_from([1, 2, 3, 4]), st.booleans())
def test_the_largest_number_of_parameters_is_found(slope, fixed, limit, step, falls):
    """The numbers rise or fall with the value, and only multiples of `step` fit."""

    def counted(value):
        if value % step:
            return None
        return fixed + (20_000 // value if falls else slope * value)

    found = counting.largest(counted, limit, SIZES)
    fitting = [n for v in range(1, 4 * limit) if (n := counted(v)) is not None and n <= limit]
    assert (found is None) == (not fitting) or falls
    if found is not None:
        assert counted(found) <= limit
        if step == 1 and not falls:
            assert counted(found + 1) > limit


@pytest.mark.parametrize("name", SPENDERS)
def test_a_method_trains_no_more_than_lora_of_the_rank(name, smoke, tmp_path):
    limit = lora_parameters(8, SIZES.elements())
    method = spent(smoke, tmp_path, name, "method.rank=8")
    value, step = method.peft[method.budget], method.budget_step or 1
    assert value % step == 0
    assert 0 < trainable(method) <= limit
    for other in (value - step, value + step):
        try:
            number = trainable(method.replace(peft=method.peft | {method.budget: other}))
        except counting.UNFIT:
            continue
        assert number > limit or number <= trainable(method)


def test_lora_spends_its_rank_and_the_command_line_is_kept(smoke, tmp_path):
    assert spent(smoke, tmp_path, "hira", "method.rank=5").peft["r"] == 5
    assert spent(smoke, tmp_path, "hira", "method.rank=5", "+method.peft.r=2").peft["r"] == 2
    assert spent(smoke, tmp_path, "lora", "method.rank=5").peft["r"] == 5


def test_a_budget_that_is_too_small_says_which_rank_is_enough(smoke, tmp_path):
    for _ in range(2):  # the second time the reason is kept
        with pytest.raises(
            ConfigError, match=r"method=loha trains at least [\d,]+ parameters, with method\.peft\.r=1, and"
        ) as e:
            spent(smoke, tmp_path, "loha", "method.rank=1")
        assert str(e.value).endswith("allowed: method.rank=2 or more")
    assert spent(smoke, tmp_path, "loha", "method.rank=2").peft["r"] == 1


def test_a_plan_knows_the_reason_and_counts_once(smoke, tmp_path, monkeypatch):
    """A plan, a run and the next plan agree, whoever has counted first."""
    refused, taken = (
        smoke("method=loha", f"method.rank={rank}", "model=tiny", f"paths.cache={tmp_path}") for rank in (1, 2)
    )
    reason = budgets.misfit(refused)
    assert reason.startswith("method=loha trains at least ")
    assert budgets.misfit(taken) == ""
    with pytest.raises(ConfigError) as error:
        adapt.adapt(tiny_model(), refused)
    assert str(error.value) == reason
    adapt.adapt(tiny_model(), taken)
    monkeypatch.setattr(counting, "trainable", lambda *_: 1 / 0)
    assert (budgets.misfit(refused), budgets.misfit(taken)) == (reason, "")
    adapt.adapt(tiny_model(), taken)


def test_the_budget_chooses_among_the_values_of_other_settings(smoke, tmp_path):
    few, many = (spent(smoke, tmp_path, "lokr", f"method.rank={rank}") for rank in (1, 16))
    assert few.peft["decompose_factor"] > many.peft["decompose_factor"]
    fixed = [
        few.replace(peft=few.peft | {"r": None, "decompose_factor": factor}) for factor in (2, 4, 8)
    ]  # at 16 nothing fits
    most = max(trainable(budgets.spent(method, SIZES.elements(), tmp_path)) for method in fixed)
    assert trainable(few) == most
    by_hand = spent(smoke, tmp_path, "lokr", "+method.peft.r=3")
    assert (by_hand.peft["r"], by_hand.peft["decompose_factor"]) == (3, few.budget_choices["decompose_factor"][0])


def test_dora_exceeds_the_budget_and_says_so_unless_it_is_told_to_keep_to_the_budget(smoke):
    above = adapt.adapt(tiny_model(), smoke("method=dora", "method.rank=8"))
    number, _ = cost.count_parameters(above.model)
    assert number > above.budget
    assert above.notes == (
        f"the method trains {number:,} parameters, {number / above.budget - 1:.1%} more than the budget, and a LoRA of "
        f"rank 8 trains {above.budget:,}",
    )
    within = adapt.adapt(tiny_model(), smoke("method=dora", "method.rank=8", "method.budget=r", "method.peft.r=null"))
    assert cost.count_parameters(within.model)[0] <= within.budget
    assert within.notes[0].startswith("method.peft.r is 7: ")


def test_the_value_is_kept_for_the_next_process(smoke, tmp_path, monkeypatch):
    first = spent(smoke, tmp_path, "miss", "method.rank=8")
    monkeypatch.setattr(counting, "trainable", lambda *_: 1 / 0)
    assert spent(smoke, tmp_path, "miss", "method.rank=8") == first
    for path in (tmp_path / "budgets").iterdir():
        path.write_text('{"value": "x"}')
    with pytest.raises(ConfigError, match="no value that fits"):  # the damaged file is not used
        spent(smoke, tmp_path, "miss", "method.rank=8")


def test_a_value_that_is_kept_is_not_used_above_a_lower_limit(smoke, tmp_path):
    assert spent(smoke, tmp_path, "vera", "method.rank=8").peft["r"] > 100
    assert spent(smoke, tmp_path, "vera", "method.rank=8", "method.budget_most=100").peft["r"] <= 100


def test_the_run_says_what_it_spends(smoke):
    adapted = adapt.adapt(tiny_model(), smoke("method=hra", "method.rank=8"))
    (note,) = adapted.notes
    number, _ = cost.count_parameters(adapted.model)
    assert note.startswith("method.peft.r is ")
    assert f"the method trains {number:,} parameters, and a LoRA of rank 8 trains {adapted.budget:,}" in note
    assert 0.9 * adapted.budget <= number <= adapted.budget
    assert math.isclose(adapted.budget, 8 * sum(k + d for k, d in tiny_sizes()))


def tiny_sizes():
    return list(NAMED["tiny"].linears().values()) * NAMED["tiny"].layers
