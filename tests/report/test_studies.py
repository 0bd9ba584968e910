"""A study of a user's own: its table, its answers, the page, and runs that no file describes."""

from __future__ import annotations

import dataclasses

import pytest

from experiments.cli import comparison
from experiments.errors import ConfigError
from experiments.identity import key_of
from experiments.report import figures, html, markdown, pages, plots, tables, wording
from experiments.report.answers import answers, listed
from experiments.spec import methods
from experiments.store.folder import read_records
from experiments.study import recorded, study_file
from experiments.study.cells import UnavailableError
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")
OWN = study_file.of_entries(
    "tickets",
    {
        "title": "Tickets",
        "base": {"task": "uuid"},
        "rows": {"LoRA": {"method": "lora"}, "MoRA": {"method": "mora"}, "FFT": {"method": "fft"}},
        "ranks": ["r8"],
        "reference": "LoRA",
        "columns": ["key_loss", "char_accuracy"],
    },
)


def results(gain=20.0, seeds=3):
    """Runs of LoRA and MoRA; MoRA is ahead by `gain` points, and a bit more with each seed."""
    lora, mora = (FIXED.setting(OWN.cell(row, OWN.columns[0])) for row in OWN.rows[:2])
    runs = [*synthetic.searched(lora, range(seeds)), *synthetic.searched(mora, range(seeds))]
    for run in runs:
        ahead = gain if run.cell["method"] == "mora" else 0.0
        run.metrics["final"] = {"char_accuracy": 50.0 + ahead + run.cell["seed"] * (1 + ahead / 50)}
        run.metrics["final"]["value_loss"] = 1.0 + abs(run.cell["learning_rate"] - synthetic.BEST)
    return Results("laptop", runs, FIXED)


def test_columns_with_values_come_first_and_the_answer_is_a_sentence():
    table = tables.fill(OWN, results())
    assert [column.name for column in table.columns] == ["char_accuracy", "key_loss"]
    (answer,) = answers(table)
    assert answer.verdict == "better"
    assert answer.text.startswith("character accuracy: MoRA, r = 8 is higher than LoRA, r = 8 by 20.4 [")
    assert answer.text.endswith("] points, 3 paired seeds; lower and higher learning rates were tried for both.")
    assert markdown.page(table).startswith("# Tickets (scale: laptop)\n\n* **better**: character accuracy: MoRA")


@pytest.mark.parametrize(
    ("gain", "seeds", "verdict", "reason"),
    [
        (0.0, 3, "undecided", "with each seed both have the same value"),
        (20.0, 1, "undecided", "an interval needs two seeds that both have"),
        (-20.0, 3, "worse", "is lower than LoRA, r = 8 by 20.4 ["),
    ],
)
def test_an_answer_says_why(gain, seeds, verdict, reason):
    (answer,) = answers(tables.fill(OWN, results(gain, seeds)))
    assert answer.verdict == verdict
    assert reason in answer.text


def test_of_very_many_comparisons_the_undecided_are_counted(monkeypatch):
    table = tables.fill(OWN, results(0.0))
    assert [answer.verdict for answer in listed(table)] == ["undecided"]
    monkeypatch.setattr("experiments.report.answers.MOST_LISTED", 0)
    (answer,) = listed(table)
    assert answer.text == f"1 of 1 comparisons, which tables/laptop/{OWN.name}.md lists with their reasons."
    assert [answer.verdict for answer in listed(tables.fill(OWN, results()))] == ["better"]


def test_a_note_names_rows_with_the_same_runs():
    rows = OWN.file["rows"] | {"MoRA as usual": {"method": "mora"}}
    table = tables.fill(study_file.of_entries("twice", OWN.file | {"rows": rows}), results())
    said = "MoRA, r = 8 and MoRA as usual, r = 8 have the same settings, and so the same runs."
    assert said in wording.footnotes(table)
    assert not any("same settings" in note for note in wording.footnotes(tables.fill(OWN, results())))


def test_a_rate_at_the_edge_decides_nothing():
    filled = results()
    runs = [run for run in filled.records if run.cell["learning_rate"] <= synthetic.BEST]
    (answer,) = answers(tables.fill(OWN, Results("laptop", runs, FIXED)))
    assert answer.verdict == "undecided"
    assert "MoRA, r = 8: the learning rate 0.003 is the highest that was tried" in answer.text


def test_the_page_starts_with_the_users_answer_and_a_figure():
    filled = results()
    page = html.page(filled.records, [(filled, [OWN, study_file.get("table2")])])
    assert "<title>Tickets</title>" in page
    order = [page.index(text) for text in ("MoRA, r = 8 is higher", "<figure", "tickets-laptop", "Claims of the")]
    assert order == sorted(order)
    alone = html.page(filled.records, [(filled, [OWN])])
    assert "Claims of the paper" not in alone
    assert "2405.12130" not in alone


def test_a_study_that_never_ran_is_not_shown(tmp_path):
    known = [OWN, *(study_file.get(name) for name in ("table1", "table2"))]
    shown = pages.studies_with_runs(results(), known)
    assert [study.name for study in shown] == ["tickets", "table2"]
    assert results().unplaced(shown) == []
    files = pages.table_files(results(), shown, tmp_path)
    assert {path.stem for path in files} == {"tickets", "table2", "tables"}


def others(**changes):
    """The runs of `results`, as runs of a configuration that no study has."""
    return [as_other(run, **changes) for run in results().records]


def as_other(run, **changes):
    """The run, of a configuration that no study has."""
    identity = {n: v for n, v in run.identity.items() if n != "cell"} | {"model": "folder-mine"} | changes
    return dataclasses.replace(run, identity=identity)


def test_runs_that_no_file_describes_are_compared_when_they_differ_in_their_method_alone():
    filled = Results("laptop", others(), FIXED)
    (study,) = recorded.studies(filled, filled.records)
    assert [row.label for row in study.rows] == ["LoRA, r = 4", "MoRA, r = 4"]
    answer, *_ = answers(tables.fill(study, filled))
    assert answer.verdict == "better"
    assert "higher learning rates were tried for both" in answer.text
    assert filled.unplaced([study]) == []


def test_the_title_names_the_data_and_settings_that_the_runs_share():
    runs = others()
    for run in runs:
        run.name = f"custom-smoke-{run.cell['method']}-r4-model=m-1a2b-data=my-rows-f81d-steps=40-lr0.003-seed0"
    filled = Results("laptop", runs, FIXED)
    (study,) = recorded.studies(filled, filled.records)
    assert study.title == "Runs on uuid with tiny that differ only in their method (data=my-rows-f81d, steps=40)"


def test_a_setting_of_pefts_tells_rows_apart_where_no_other_setting_does():
    """Both rows of LoRA have MoRA's rank, so each is compared with MoRA by its own name."""

    def with_alpha(run, alpha):
        identity = run.identity | {"method": run.identity["method"] | {"peft": {"lora_alpha": alpha}}}
        return dataclasses.replace(run, key=key_of(identity), identity=identity)

    runs = others()
    lora, mora = ([run for run in runs if run.cell["method"] == name] for name in ("lora", "mora"))
    ((study, _),) = comparison.of_records([*mora, *(with_alpha(run, alpha) for run in lora for alpha in (16, 64))])
    assert {row.label: row.family for row in study.rows} == {
        "LoRA, r = 4, peft.lora_alpha = 16": "LoRA",
        "LoRA, r = 4, peft.lora_alpha = 64": "LoRA",
        "MoRA, r = 4": "MoRA",
    }


def test_runs_that_differ_in_more_than_their_method_are_not_compared():
    runs = others()
    for run in runs:
        if run.cell["method"] == "mora":
            run.identity["model"] = "another"
    assert recorded.studies(Results("laptop", runs, FIXED), runs) == []


def test_what_the_folder_holds_is_compared_without_a_study(tmp_path):
    synthetic.write([dataclasses.replace(run, key=key_of(run.identity)) for run in others()], tmp_path)
    ((study, filled),) = comparison.of_records(read_records(tmp_path)[0])
    assert "better: character accuracy" in comparison.text(study, filled)
    (path,) = [p for p in comparison.write([], tmp_path, "") if p.name == "report.html"]
    assert "Runs on uuid with tiny that differ only in their method" in path.read_text()


def test_ranks_and_metrics_are_chosen_among_what_a_folder_holds():
    runs = others()
    identity = {"method": {"name": "fft", "rank": None}}
    full = [
        dataclasses.replace(run, cell=run.cell | {"method": "fft", "rank": None}, identity=run.identity | identity)
        for run in runs
        if run.cell["method"] == "mora"
    ]
    ((study, _),) = comparison.of_records([*runs, *full], columns=["value_loss"])
    assert [column.name for column in study.columns] == ["value_loss"]
    assert {row.label for row in study.rows} == {"LoRA, r = 4", "MoRA, r = 4", "FFT"}
    assert comparison.of_records(runs, ranks=[8]) == []
    ((study, _),) = comparison.of_records([*runs, *full], ranks=[4])
    assert "FFT" in [row.label for row in study.rows]  # full training has no rank
    with pytest.raises(ConfigError, match="nonsense; allowed for these runs: char_accuracy, "):
        comparison.of_records(runs, columns=["nonsense", "value_loss"])


def test_runs_of_another_folder_stand_beside_what_a_folder_holds(tmp_path):
    """The other folder has the run of MoRA too, and a run on another model."""
    runs = [dataclasses.replace(run, key=key_of(run.identity)) for run in others()]
    mora = [run for run in runs if run.cell["method"] == "mora"]
    foreign = [dataclasses.replace(run, key="f" * 16, identity=run.identity | {"model": "another"}) for run in mora]
    beside = comparison.comparable([*runs, *foreign], mora)
    assert [run.key for run in beside] == [run.key for run in runs if run not in mora]
    ((study, _),) = comparison.of_records([*mora, *beside])
    assert [row.label for row in study.rows] == ["LoRA, r = 4", "MoRA, r = 4"]


class Unavailable(synthetic.FixedProtocols):
    """Protocols whose data file is gone."""

    def setting(self, cell):
        raise UnavailableError("task.train_file must be a file")


def test_a_study_whose_data_are_gone_is_named():
    """Its runs are there, and no cell can be composed any more: else its table would go without a word."""
    gone = Results("laptop", results().records, Unavailable("laptop"))
    assert pages.lost_studies([gone], [OWN]) == {"tickets": "task.train_file must be a file"}
    assert pages.lost_studies([results()], [OWN]) == {}
    assert pages.lost_studies([Results("laptop", [], FIXED)], [OWN]) == {}  # nothing was run yet


def test_a_study_with_spectra_has_a_table_and_curves_too():
    study = study_file.of_entries("own", OWN.file | {"figures": ["curves", "spectrum"]})
    records = results().records
    for record in records:
        record.metrics["spectrum"] = {"q_proj": {"above": 3, "layers": 1}}
    with plots.style():
        drawn = dict(figures.figures_of(study, Results("laptop", records, FIXED)))
    assert study.has_table
    assert drawn.keys() == {"curves_own", "spectrum_own"}


def made(*arguments, ranks=(), seeds=None, columns=(), name=""):
    return comparison.study_of(arguments, ranks, seeds, columns, name)


def test_arguments_make_a_study():
    study = made("method=mora,lora", "task=uuid", "method.dropout=0,0.1", "model='a, b'", ranks=[4, 8], seeds=[3])
    assert study.references == ("LoRA, dropout = 0", "LoRA, dropout = 0.1")
    assert len(study.rows) == 8
    assert [cell.model for cell in study.cells("laptop")] == ["a, b"] * 8
    assert study.seeds == (3,)
    assert made("method=mora,lora", "task=uuid").name == made("method=mora,lora", "task=uuid").name
    assert made("method=mora,lora", "task=uuid", ranks=[4]).name != made("method=mora,lora", "task=uuid").name


def test_ranks_in_a_list_are_ranks_of_the_study():
    """Else MoRA at the higher rank would be compared with LoRA at the lower one, which trains half as much."""
    study = made("method=lora,mora", "method.rank=4,8", "task=uuid")
    assert {row.label: [r.label for r in study.references_of(row)] for row in study.rows} == {
        "LoRA, r = 4": [],
        "MoRA, r = 4": ["LoRA, r = 4"],
        "LoRA, r = 8": [],
        "MoRA, r = 8": ["LoRA, r = 8"],
    }
    assert [row.label for row in made("method.rank=4,8", "task=uuid").rows] == ["rank = 4", "rank = 8"]
    with pytest.raises(ConfigError, match=r"--ranks and method\.rank: both name the ranks"):
        made("method=lora,mora", "method.rank=4,8", "task=uuid", ranks=[4])


def test_each_row_is_compared_with_the_row_of_lora_that_has_the_same_settings():
    study = made("method=lora,mora", "training.steps=40,80", "task=uuid")
    mora = study.rows_of("MoRA, steps = 80")[0]
    assert "LoRA, steps = 80" in [row.label for row in study.references_of(mora)]


def test_the_title_tells_two_data_files_apart():
    titles = [
        made("method=lora,mora", "task=custom", f"task.train_file=/a/{name}.jsonl", "training.steps=40").title
        for name in ("one", "two")
    ]
    assert titles[0] == "LoRA against MoRA on custom, train_file = one.jsonl, steps = 40"
    assert titles[1] != titles[0]


def test_operators_can_be_compared():
    study = made("method.operator=sharing,rotation", "task=uuid")
    assert [row.label for row in study.rows] == ["operator = sharing", "operator = rotation"]
    assert {cell.method for cell in study.cells("laptop")} == {"mora"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=lora", "task=uuid"], "what is compared"),
        (["method=lora,mora"], "base.task is missing"),
        (["method=lora,mora", "task=uuid", "~seed"], "cannot take a setting away"),
        (["method=lora,mora", "task=uuid", "task.pairs=range(3)"], "allowed in a comparison: a list of values"),
        (["method=lora,mora", "task=uuid", "seed=0,1"], "sets seed"),
    ],
)
def test_arguments_that_make_no_study_are_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message):
        made(*arguments)


def of_mora(record):
    return record.cell["method"] == "mora"


def failed(record, error="FloatingPointError"):
    return dataclasses.replace(
        record, status="failed", metrics={"final": {}, "curve": []}, error={"type": error, "message": "it ended"}
    )


def answer_of(runs):
    """What runs that no file describes answer, as compare.py and the page show it."""
    ((study, filled),) = comparison.of_records(runs)
    table = tables.fill(study, filled)
    return table, answers(table)[0]


def test_a_run_that_diverged_counts_where_no_file_describes_the_runs():
    """Else a method that fails with some seeds would be compared by its survivors alone."""
    runs = others()
    seed_2 = [run for run in runs if of_mora(run) and run.cell["seed"] == 2]
    _, answer = answer_of([failed(run) if run in seed_2 else run for run in runs])
    assert answer.verdict == "undecided"
    assert "MoRA, r = 4: 1 of 3 runs at the learning rate 0.003 diverged" in answer.text


def test_a_rate_that_diverged_was_tried_where_no_file_describes_the_runs():
    runs = others()
    high = [run for run in runs if run.cell["learning_rate"] > synthetic.BEST]
    assert "highest that was tried" in answer_of([run for run in runs if run not in high])[1].text
    _, answer = answer_of([failed(run) if run in high else run for run in runs])
    assert answer.verdict == "better"


def test_a_cell_whose_runs_all_failed_is_a_row_without_a_value():
    runs, full = others(), FIXED.setting(OWN.cell(OWN.rows[2], OWN.columns[0]))
    lost = [failed(as_other(run)) for run in synthetic.searched(full, (0,))]
    table, _ = answer_of([*runs, *lost])
    assert {row[0].row.label: bool(row[0].values) for row in table.entries} == {
        "LoRA, r = 4": True,
        "MoRA, r = 4": True,
        methods.label("fft"): False,
    }
    interrupted = [dataclasses.replace(run, status="interrupted", error=None) for run in lost]
    assert len(answer_of([*runs, *interrupted])[0].entries) == 2


def test_a_row_that_is_not_trained_has_no_rates_that_were_tried():
    entries = OWN.file | {"rows": {"LoRA": {"method": "lora"}, "base": {"method": "none"}}, "reference": "base"}
    study = study_file.of_entries("untrained", entries)
    lora, base = (FIXED.setting(study.cell(row, study.columns[0])) for row in study.rows)
    runs = [*synthetic.searched(lora, range(3)), *(synthetic.record(base, 1e-3, seed) for seed in range(3))]
    for run in runs:
        trained = run.cell["method"] == "lora"
        run.metrics["final"] |= {"char_accuracy": 50.0 * trained + run.cell["seed"] * (1 + trained)}
    (answer,) = (a for a in answers(tables.fill(study, Results("laptop", runs, FIXED))) if "accuracy" in a.text)
    assert "is higher than base" in answer.text
    assert answer.text.endswith("lower and higher learning rates were tried for LoRA, r = 8.")


def test_rows_without_a_common_seed_are_not_compared_and_it_is_said():
    runs = [run for run in others() if of_mora(run) == (run.cell["seed"] > 0)]
    ((study, filled),) = comparison.of_records(runs)
    text = comparison.text(study, filled)
    assert text.endswith("Nothing is compared: LoRA, r = 4 and MoRA, r = 4 have no value over a common seed.")
