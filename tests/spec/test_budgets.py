"""A method spends its budget: the setting that trains the most parameters, and no more than LoRA of the rank."""

import itertools
import json
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftType

from experiments.errors import ConfigError
from experiments.spec import budgets, counting, methods
from experiments.spec.shapes import NAMED, lora_parameters, size_name
from experiments.train import adapt, cost
from experiments.train.base_models import tiny_model

SIZES = Counter([(64, 64), (64, 64), (64, 192), (192, 64)])
SPENDERS = [name for name in methods.names() if methods.settings(name).get("budget")]


def spent(smoke, tmp_path, name, *arguments, sizes=SIZES):
    method = smoke(f"method={name}", *arguments).method
    return budgets.spent(method, named(sizes), tmp_path)


def named(sizes):
    """Name of a layer -> size. Layers of one size have the name that `counting.trainable` gives this size."""
    return {f"{j}.layer{i}": size for i, (size, number) in enumerate(sizes.items()) for j in range(number)}


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


@pytest.mark.parametrize(
    ("peft", "trains"),
    [
        ({"peft_type": "UNILORA", "theta_d_length": 1000}, 1000),  # one vector for all layers
        ({"peft_type": "TINYLORA", "u": 10}, 140),  # a vector of 10 for each of 14 layers, in one list
    ],
)
def test_parameters_that_layers_share_count_as_often_as_they_are_there(smoke, peft, trains):
    sizes = Counter({(688, 256): 2, (256, 688): 4, (256, 256): 8})
    assert trainable(smoke("method=vera").method.replace(peft=peft, budget=None), sizes) == trains


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


def test_a_mistake_in_the_file_of_a_method_is_no_matter_of_the_budget_and_is_not_kept(smoke, tmp_path):
    """The library of a user registers its adapter in one run, and not in another."""
    for change, message in (
        ("method.peft.peft_type=NONE", r"^method\.peft\.peft_type must be one of .*, got 'NONE'$"),
        ("method.budget=rr", r"^method\.peft of method=hira: .*unexpected keyword argument 'rr'; allowed: .*\br, .*$"),
    ):
        arguments = ["hira", "method.rank=8", change]
        with pytest.raises(ConfigError, match=message):
            spent(smoke, tmp_path, *arguments)
        wrong = smoke("method=hira", "method.rank=8", change, "model=tiny", f"paths.cache={tmp_path}")
        assert budgets.misfit(wrong) == ""  # no dash in a table: run.py says what is wrong
    assert not (tmp_path / "budgets").exists()


def test_what_the_library_of_a_user_counts_is_not_kept(smoke, tmp_path, monkeypatch):
    """The library may change from one run to the next, and has no version that this project knows."""
    kinds = counting.PEFT_TYPE_TO_CONFIG_MAPPING
    own = type("OwnConfig", (kinds[PeftType.HIRA],), {"__module__": "my_library"})
    monkeypatch.setitem(kinds, PeftType.HIRA, own)
    assert spent(smoke, tmp_path, "hira", "method.rank=8").peft["r"] == 8
    assert not (tmp_path / "budgets").exists()


@pytest.mark.parametrize(
    "setting", ["layers_to_transform=[0]", "exclude_modules=[q_proj]", "rank_pattern={q_proj: 64}"]
)
def test_a_budget_with_settings_of_single_layers_is_refused(smoke, tmp_path, setting):
    name = setting.partition("=")[0]
    arguments = ["hira", "method.rank=8", f"+method.peft.{setting}"]
    with pytest.raises(ConfigError, match=rf"method\.peft\.{name} changes single layers.*\+method\.peft\.r=\.\.\.$"):
        spent(smoke, tmp_path, *arguments)
    assert spent(smoke, tmp_path, *arguments, "+method.peft.r=3").peft["r"] == 3


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
    most = max(trainable(budgets.spent(method, named(SIZES), tmp_path)) for method in fixed)
    assert trainable(few) == most
    by_hand = spent(smoke, tmp_path, "lokr", "+method.peft.r=3")
    assert (by_hand.peft["r"], by_hand.peft["decompose_factor"]) == (3, few.budget_choices["decompose_factor"][0])


def test_dora_keeps_to_the_budget_and_says_when_it_is_told_to_exceed_the_budget(smoke):
    within = adapt.adapt(tiny_model(), smoke("method=dora", "method.rank=8"))
    assert cost.count_parameters(within.model)[0] <= within.budget
    assert within.notes[0].startswith("method.peft.r is 7: ")
    above = adapt.adapt(tiny_model(), smoke("method=dora", "method.rank=8", "method.peft.r=8"))
    number, _ = cost.count_parameters(above.model)
    assert number > above.budget
    assert above.notes == (
        f"method.peft.r is 8: the method trains {number:,} parameters, {number / above.budget - 1:.1%} more than the "
        f"budget, and a LoRA of rank 8 trains {above.budget:,}",
    )
    published = smoke("method=dora", "task=instruct", "scale=paper").method
    assert published.peft["r"] == published.rank == 8


def test_layers_of_each_size_have_a_value_of_their_own_where_the_method_has_a_pattern(smoke):
    """A block of C3A divides both sides of a layer. No single block fits rank 8 on this model."""
    adapted = adapt.adapt(tiny_model(), smoke("method=c3a", "method.rank=8"))
    number, _ = cost.count_parameters(adapted.model)
    assert 0.9 * adapted.budget < number <= adapted.budget
    config = adapted.model.peft_config["default"]
    assert adapted.notes[0].startswith(
        f"method.peft.block_size is {config.block_size} and method.peft.block_size_pattern is "
        f"{config.block_size_pattern}: the method trains {number:,} parameters"
    )
    assert set(config.block_size_pattern) < {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "up_proj",
        "gate_proj",
        "down_proj",
    }
    with pytest.raises(ConfigError, match=r"allowed: method\.rank=11 or more"):
        adapt.adapt(tiny_model(), smoke("method=c3a", "method.rank=8", "method.budget_pattern=null"))
    by_hand = adapt.adapt(tiny_model(), smoke("method=c3a", "method.rank=8", "+method.peft.block_size=16"))
    assert by_hand.model.peft_config["default"].block_size_pattern == {}


@given(
    st.dictionaries(
        st.tuples(st.sampled_from([8, 12, 16, 24]), st.sampled_from([8, 12, 16, 24])),
        st.integers(1, 3),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 8),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_of_values_trains_more_within_the_budget(smoke, layers, rank):
    method, sizes = smoke("method=c3a", f"method.rank={rank}").method, Counter(layers)
    limit = lora_parameters(rank, sizes.elements())
    values = {size: [b for b in range(1, 25) if not size[0] % b and not size[1] % b] for size in sizes}
    totals = [
        sum(number * size[0] * size[1] // block for (size, number), block in zip(sizes.items(), blocks, strict=True))
        for blocks in itertools.product(*values.values())
    ]
    fitting = [total for total in totals if total <= limit]
    if not fitting:
        with pytest.raises(ConfigError, match=f"trains at least {min(totals):,} parameters"):
            counting.settings(method, limit, sizes)
        assert counting.misfit(method, limit, sizes)
        return
    found = counting.settings(method, limit, sizes)["block_size_pattern"]
    assert sum(n * size[0] * size[1] // found[size_name(size)] for size, n in sizes.items()) == max(fitting)
    assert not counting.misfit(method, limit, sizes)


def test_names_that_do_not_tell_the_size_are_whole_in_a_pattern(smoke, tmp_path):
    layers = {"a.proj": (64, 64), "b.proj": (64, 192), "b.out": (192, 64), "0": (64, 64)}
    method = budgets.spent(smoke("method=c3a", "method.rank=8").method, layers, tmp_path)
    values = {name: method.peft["block_size_pattern"].get(name, method.peft["block_size"]) for name in layers}
    assert values["a.proj"] == values["0"]
    assert "proj" not in method.peft["block_size_pattern"]
    number = sum(k * d // values[name] for name, (k, d) in layers.items() if name != "b.out")
    out = method.peft["block_size_pattern"].get("out", method.peft["block_size"])
    assert number + 192 * 64 // out <= lora_parameters(8, layers.values())


def test_the_value_is_kept_for_the_next_process(smoke, tmp_path, monkeypatch):
    first = spent(smoke, tmp_path, "miss", "method.rank=8")
    monkeypatch.setattr(counting, "trainable", lambda *_: 1 / 0)
    assert spent(smoke, tmp_path, "miss", "method.rank=8") == first
    for path in (tmp_path / "budgets").iterdir():
        path.write_text('{"value": "x"}')
    with pytest.raises(ConfigError, match="no value that fits"):  # the damaged file is not used
        spent(smoke, tmp_path, "miss", "method.rank=8")


@pytest.mark.promise("A value that the cache keeps has a sum. If the file is damaged, the value is computed again.")
@pytest.mark.parametrize(
    "damage",
    [
        lambda answer: {},
        lambda answer: answer | {"settings": {}},
        lambda answer: answer | {"settings": answer["settings"] | {"block_size": 8}},
        lambda answer: answer | {"settings": answer["settings"] | {"block_size_pattern": {}}},
        lambda answer: {"reason": "does not fit"},
    ],
)
def test_a_damaged_answer_is_found_anew(smoke, tmp_path, damage):
    """Another number of parameters would be trained, which looks as right as the number of the budget."""
    first = spent(smoke, tmp_path, "c3a", "method.rank=8")
    (path,) = (tmp_path / "budgets").iterdir()
    content = json.loads(path.read_text())
    changed = content | {"value": damage(content["value"])}
    assert changed != content
    path.write_text(json.dumps(changed))
    assert spent(smoke, tmp_path, "c3a", "method.rank=8") == first


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


def test_an_adapter_that_trains_nothing_is_named(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "trainable", lambda *_: 0)
    with pytest.raises(ConfigError, match=r"^method=miss: its adapter trains no parameters$"):
        spent(smoke, tmp_path, "miss", "method.rank=8")
