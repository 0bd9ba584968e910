"""Which records fill a cell, and which rate is selected."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import paper, tasks
from experiments.identity import identity_of, key_of
from experiments.paper import Cell
from experiments.spec import hardware
from experiments.spec.compose import composition
from experiments.spec.parse import parse
from experiments.store.folder import ConfigError, read_records
from experiments.study import study_file
from experiments.study.cells import Protocols
from experiments.study.fill import Results

from .. import synthetic

CELL = Cell("uuid", "mora", 8)
FIXED = synthetic.FixedProtocols("laptop")
SETTING = FIXED.setting(CELL)


def filled(*records):
    return Results("laptop", records, FIXED).cell(CELL)


def other_settings(record, **settings):
    """The record, of a run that had other settings."""
    return dataclasses.replace(record, identity=record.identity | settings)


def test_a_record_of_other_settings_does_not_fill_a_cell_and_is_named_with_what_parts_it():
    record = synthetic.record(SETTING, 1e-2, 0)
    assert filled(record).selected == {0: record}
    longer = other_settings(record, training={"learning_rate": 1e-2, "steps": 1000}, model="other")
    cell = filled(longer)
    assert cell.selected == {}
    assert (
        cell.nearest
        == f"{record.key}: training.steps 1000, this cell wants nothing; model other, this cell wants nothing"
    )


def test_of_several_records_the_nearest_is_named():
    far = other_settings(synthetic.record(SETTING, 1e-2, 0), a=1, b=2)
    near = other_settings(synthetic.record(SETTING, 1e-3, 1), a=1)
    assert filled(far, near).nearest == f"{near.key}: a 1, this cell wants nothing"


class NoProtocols:
    """Protocols that compose nothing."""

    def setting(self, cell):
        raise AssertionError(cell)


def test_nothing_is_composed_for_runs_of_another_version_of_the_task():
    old = other_settings(synthetic.record(SETTING, 1e-2, 0), task_version=0)
    results = Results("laptop", [old], NoProtocols())
    assert not results.has_runs(study_file.get("table2"))
    assert results.unplaced([study_file.get("table2")]) == [old]


def test_runs_of_another_version_of_the_task_are_why_a_study_has_none():
    study, record = study_file.get("table2"), synthetic.record(SETTING, 1e-2, 0)
    results = Results("laptop", [other_settings(record, task_version=0)], FIXED)
    nearest = f"the nearest record is {record.key}: task_version 0, this cell wants nothing"
    assert results.obstacle(study) == nearest
    assert results.obstacle(study) == nearest
    assert Results("laptop", [record], FIXED).obstacle(study) == ""
    assert Results("laptop", [], FIXED).obstacle(study) == ""


def test_the_machine_of_the_reader_plays_no_part(protocols, monkeypatch):
    cell = Cell("uuid", "mora", 8)
    record = synthetic.record(protocols.setting(cell), 1e-2, 0)
    monkeypatch.setattr(hardware, "_has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "_has_bf16", lambda: True)
    assert Results("smoke", [record], Protocols("smoke")).cell(cell).selected == {0: record}


def test_a_cell_with_two_number_formats_takes_float32():
    record = synthetic.record(SETTING, 1e-2, 0)
    fp32, bf16 = (other_settings(record, hardware={"precision": p}) for p in ("fp32", "bf16"))
    assert filled(bf16, dataclasses.replace(fp32, key="f" * 16)).selected[0].identity["hardware"]["precision"] == "fp32"


def test_another_scale_does_not_fill_a_cell():
    made = synthetic.record(SETTING, 1e-2, 0)
    assert filled(dataclasses.replace(made, cell=made.cell | {"scale": "paper"})).selected == {}


@pytest.mark.parametrize(
    "of_the_study",
    [{"options": ("training.learning_rate=0.001",)}, {"search": (("training.learning_rate", (0.001, 0.003)),)}],
)
def test_a_study_that_names_its_rates_takes_no_other(protocols, of_the_study):
    """Two rates as rows, or a rate beside an earlier search, must not show the runs of another rate."""
    plain = Cell("uuid", "lora", 8)
    runs = [synthetic.record(protocols.setting(plain), rate, 0) for rate in (1e-3, 1e-2)]
    results = Results("smoke", runs, protocols)
    assert len(results.cell(plain).runs) == 2
    named = results.cell(dataclasses.replace(plain, **of_the_study))
    assert named.selected == {0: runs[0]}
    assert list(named.runs) == [1e-3]


def test_a_rate_beside_the_candidates_fills_a_cell():
    record = synthetic.record(SETTING, 5e-3, 0)
    assert filled(record).selected == {0: record}


def test_the_selected_rate_is_in_doubt_until_rates_on_both_sides_were_tried():
    runs = {rate: synthetic.record(SETTING, rate, 0) for rate in (1e-3, 3e-3, 1e-2)}
    assert filled(*runs.values()).doubt == ""
    assert filled(runs[3e-3]).doubt == "the learning rate 0.003 is the only one that was tried"
    assert filled(runs[1e-3], runs[3e-3]).doubt == "the learning rate 0.003 is the highest that was tried"
    assert filled(runs[3e-3], runs[1e-2]).doubt == "the learning rate 0.003 is the lowest that was tried"
    assert filled(runs[1e-3], runs[3e-3], synthetic.diverged(SETTING, 1e-2, 0)).doubt == ""
    broken = synthetic.record(SETTING, 1e-2, 0, status="failed")
    assert filled(runs[1e-3], runs[3e-3], broken).doubt == "the learning rate 0.003 is the highest that was tried"
    base = FIXED.setting(Cell("math", "none"))
    untrained = Results("laptop", [synthetic.record(base, base.default_rate, 0)], FIXED).cell(base.cell)
    assert (len(untrained.selected), untrained.doubt) == (1, "")


def two_rates(cell):
    """A run at 1e-3 and one at 1e-2; the first has the lower training loss, the second the lower value loss."""
    runs = [synthetic.record(FIXED.setting(cell), rate, 0) for rate in (1e-3, 1e-2)]
    for run, loss, value_loss, score in zip(runs, (0.1, 0.2), (0.8, 0.7), (1.0, 99.0), strict=True):
        run.metrics["curve"][-1]["loss"] = loss
        run.metrics["final"] = {"value_loss": value_loss, "char_accuracy": score, "gsm8k": score}
    return Results("laptop", runs, FIXED).cell(cell).selection


def test_the_rate_with_the_lowest_training_loss_is_selected_whatever_the_metric_says():
    selection = two_rates(Cell("math", "mora", 8))
    assert (selection.rate, selection.by, selection.scores) == (1e-3, "training loss", {1e-3: 0.1, 1e-2: 0.2})


def test_a_task_declares_the_loss_that_selects():
    selection = two_rates(CELL)
    assert (selection.rate, selection.by) == (1e-2, "loss on values, nats a token")
    assert selection.scores == {1e-3: 0.8, 1e-2: 0.7}


@pytest.mark.parametrize("task", [tasks.get(name) for name in tasks.names()], ids=lambda task: task.name)
def test_what_selects_is_a_loss_that_a_run_measures(task):
    assert task.selection is None or not task.metric(task.selection).higher_is_better


def test_rates_are_compared_on_a_seed_that_all_of_them_have():
    """The search may have had another seed than the lowest: further seeds of one rate must not change the selection."""
    runs = [synthetic.record(SETTING, rate, 2) for rate in (1e-3, 3e-3)]
    runs += [synthetic.record(SETTING, 3e-3, seed) for seed in (0, 1)]
    for run in runs:
        run.metrics["final"]["value_loss"] = {2: 0.5, 0: 0.9, 1: 0.9}[run.cell["seed"]]
    runs[0].metrics["final"]["value_loss"] = 0.6
    selection = filled(*runs).selection
    assert (selection.rate, selection.scores) == (3e-3, {1e-3: 0.6, 3e-3: 0.5})


def test_a_rate_that_was_run_with_another_seed_only_is_left_out():
    """Another seed may draw other data. One stray run must not take the cell's other seeds away."""
    runs = [synthetic.record(SETTING, rate, 0) for rate in (1e-3, 3e-3, 1e-2)]
    runs += [synthetic.record(SETTING, 3e-3, seed) for seed in (1, 2)]
    stray = synthetic.record(SETTING, 2e-3, 7)
    for run in runs:
        run.metrics["final"]["value_loss"] = 0.5 if run.cell["learning_rate"] == 3e-3 else 0.6
    stray.metrics["final"]["value_loss"] = 0.1
    found = filled(*runs, stray)
    assert (found.selection.rate, found.selection.seed, found.selection.left_out) == (3e-3, 0, (2e-3,))
    assert found.selected.keys() == {0, 1, 2}
    assert found.doubt == ""


@pytest.mark.parametrize(("floor", "rate"), [(70.0, 1e-3), (80.0, 3e-3), (90.0, 3e-3)])
def test_a_number_at_the_floor_selects_no_rate(floor, rate):
    """No rate is above the floor during the training: the rate for values at the end is taken."""
    runs = [synthetic.record(SETTING, rate, 0) for rate in (1e-3, 3e-3)]
    for run, loss, accuracy in zip(runs, (0.2, 0.1), (80.0, 60.0), strict=True):
        run.metrics["final"] |= {"value_loss": loss, "char_accuracy_floor": floor}
        for row in run.metrics["curve"]:
            row["char_accuracy"] = accuracy
    results = Results("laptop", runs, FIXED)
    assert results.cell(CELL, in_training=True).selection.rate == rate
    assert results.cell(CELL).selection.rate == 3e-3
    assert len(results.both(CELL)) == (2 if rate == 1e-3 else 1)


def test_of_equal_rates_one_at_the_edge_is_taken_so_that_the_search_goes_on():
    runs = [synthetic.record(SETTING, rate, 0) for rate in (1e-3, 3e-3, 1e-2, 3e-2)]
    for run, loss in zip(runs, (0.6, 0.5, 0.7, 0.5), strict=True):
        run.metrics["final"]["value_loss"] = loss
    assert filled(*runs).doubt == "the learning rate 0.03 is the highest that was tried"
    beyond = synthetic.record(SETTING, 1e-1, 0)
    beyond.metrics["final"]["value_loss"] = 0.9
    assert (filled(*runs, beyond).selection.rate, filled(*runs, beyond).doubt) == (3e-3, "")


def test_a_task_may_select_another_rate_for_what_is_read_during_the_training():
    runs = [synthetic.record(SETTING, rate, 0) for rate in (1e-3, 3e-3)]
    for run, loss, accuracy in zip(runs, (0.2, 0.1), (80.0, 60.0), strict=True):
        run.metrics["final"]["value_loss"] = loss
        for row in run.metrics["curve"]:
            row["char_accuracy"] = accuracy
    results = Results("laptop", runs, FIXED)
    end, during = results.both(CELL)
    assert (end.selection.rate, during.selection.rate) == (3e-3, 1e-3)
    assert (during.selection.scores, during.selection.cost) == ({1e-3: 80.0, 3e-3: 60.0}, -80.0)
    assert during.selection.by == "mean character accuracy over the training"
    assert results.cell(CELL, in_training=True) is during
    math_cell = Cell("math", "mora", 8)
    assert results.cell(math_cell, in_training=True) is results.cell(math_cell)
    assert results.both(math_cell) == [results.cell(math_cell)]


def test_failed_and_diverged_candidates_are_not_selected():
    found = filled(synthetic.record(SETTING, 1e-3, 0), synthetic.diverged(SETTING, 1e-2, 0))
    assert found.selection.rate == 1e-3
    assert found.selection.scores[1e-2] is None
    assert len(found.diverged) == 1
    assert filled(synthetic.diverged(SETTING, 1e-2, 0)).selection is None


@pytest.fixture(scope="module")
def protocols():
    return Protocols("smoke")


def cells():
    return list(
        dict.fromkeys(
            [cell for name in ("table2", "figure2", "table4") for cell in study_file.get(name).cells("smoke")]
        )
    )


@pytest.mark.parametrize("cell", [c for c in cells() if c.task == "uuid"], ids=str)
def test_keys_are_those_of_run_py(protocols, cell):
    setting = protocols.setting(cell)
    rate = setting.candidates[0]
    arguments = [*setting.arguments, f"training.learning_rate={rate}", "seed=3"]
    assert setting.key(rate, 3) == key_of(identity_of(parse(composition(arguments))))


def test_a_number_format_of_its_own_still_fills_the_cell(protocols):
    cell = Cell("uuid", "lora", 8)
    setting = protocols.setting(cell)
    composed = parse(composition([*setting.arguments, "hardware.precision=bf16"]))
    made = synthetic.record(setting, setting.default_rate, 0, identity=identity_of(composed), config=composed.as_dict())
    assert Results("smoke", [made], protocols).cell(cell).selected == {0: made}


def test_paper_scale_ranks_are_the_papers():
    made = Protocols("paper")
    cells = study_file.get("figure2").cells("paper")
    assert [made.setting(c).rank for c in cells] == [
        None,
        256,
        128,
        64,
        32,
        16,
        8,
        256,
    ]


@pytest.mark.parametrize(("scale", "task", "alphas"), [("paper", "uuid", [128, 512]), ("laptop", "pretrain", [8, 32])])
def test_lora_at_the_papers_scale_and_at_two(scale, task, alphas):
    made = Protocols(scale)
    number, rank = (2, paper.HIGH) if task == "uuid" else (3, paper.PRETRAINING)
    cells = [c for c in study_file.get(f"table{number}").cells("laptop") if (c.method, c.rank) == ("lora", rank)]
    assert [made.setting(c).identity["method"]["peft"]["lora_alpha"] for c in cells] == alphas


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": 3}',
        '{"schema": NaN}',
        '{"schema": 2, "key": "k", "name": "n", "status": "finished", "cell": {"task": []}, "config": {}}',
        '{"schema": 2}',
        '{"schema": 2, "key": "k", "name": "n", "status": "odd", "cell": {}, "config": {}}',
        '{"schema": 2, "key": "k", "name": "n", "status": "finished", "cell": {}, "config": {}}',
    ],
)
def test_an_unreadable_record_is_named_and_the_rest_stands(tmp_path, text):
    made = synthetic.record(SETTING, 1e-2, 0)
    synthetic.write([made], tmp_path)
    (tmp_path / "runs" / "broken.json").write_text(text)
    records, problems = read_records(tmp_path)
    assert records == [made]
    assert len(problems) == 1
    assert problems[0].startswith("broken.json is not a readable record and is skipped")
    assert "\n" not in problems[0]


@pytest.mark.parametrize("section", ["metrics", "cell", "cost", "provenance", "config", "identity"])
def test_a_section_of_the_wrong_kind_makes_a_record_unreadable(tmp_path, section):
    values = dataclasses.asdict(synthetic.record(SETTING, 1e-2, 0)) | {section: [1]}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "odd.json").write_text(json.dumps(values))
    records, problems = read_records(tmp_path)
    assert (len(records), len(problems)) == (0, 1)


def test_no_results_folder_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        read_records(tmp_path / "nothing")
    assert read_records(tmp_path) == ([], [])
    assert read_records(Path(tmp_path)) == ([], [])


def test_the_untrained_model_has_a_key_without_a_rate(protocols):
    setting = protocols.setting(Cell("math", "none"))
    assert setting.key(setting.default_rate, 0) == key_of(
        identity_of(parse(composition([*setting.arguments, "seed=0"])))
    )
    made = synthetic.record(setting, setting.default_rate, 0)
    made.cell["learning_rate"] = None
    assert Results("smoke", [made], protocols).cell(Cell("math", "none")).selected == {0: made}


@pytest.mark.parametrize("method", ["lora_plus", "relora", "asylora", "dora", "mora", "lora", "fft"])
def test_keys_of_methods_and_tasks_put_together_are_those_of_run_py(protocols, method):
    setting = protocols.setting(Cell("math", method, None if method == "fft" else 256))
    composed = parse(composition([*setting.arguments, "training.learning_rate=0.5", "seed=2"]))
    assert setting.key(0.5, 2) == key_of(identity_of(composed))


def in_format(record, precision):
    return other_settings(record, hardware={"precision": precision})


def test_of_runs_in_two_number_formats_the_one_that_has_ended_counts_then_that_of_float32():
    bf16 = [in_format(synthetic.record(SETTING, synthetic.BEST, seed), "bf16") for seed in range(3)]
    fp32 = [in_format(synthetic.record(SETTING, synthetic.BEST, seed), "fp32") for seed in range(3)]
    fp32[1] = dataclasses.replace(fp32[1], status="interrupted")
    fp32[2] = in_format(synthetic.diverged(SETTING, synthetic.BEST, 2), "fp32")
    for order in ([*bf16, *fp32], [*fp32, *bf16]):
        cell = filled(*order)
        assert cell.runs[synthetic.BEST] == {0: fp32[0], 1: bf16[1], 2: fp32[2]}
        assert cell.selected == {0: fp32[0], 1: bf16[1]}
