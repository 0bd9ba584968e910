from __future__ import annotations

import dataclasses
import re

import pytest

from experiments import tasks
from experiments.paper import Cell
from experiments.report import answers, latex, markdown, tables, wording
from experiments.spec import methods
from experiments.study import measures, question_samples, statistics, study_file
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")


SETTINGS = [FIXED.setting(Cell("uuid", method, 8)) for method in ("mora", "lora")]


def mora_at_step_300(records):
    """The entry of MoRA, r = 8, in the first column of Table 2."""
    table = tables.fill(study_file.get("table2"), Results("laptop", records, FIXED))
    (row,) = (row for row in table.entries if row[0].row.label == "MoRA, r = 8")
    return row[0]


def test_better_needs_an_interval():
    for seeds, expected in (((0,), "undecided"), ((0, 1, 2), "better")):
        entry = mora_at_step_300([r for s in SETTINGS for r in synthetic.searched(s, seeds)])
        assert entry.comparison.verdict == expected
        assert (entry.comparison.interval.low is None) == (expected == "undecided")


def test_better_needs_a_rate_between_others():
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    without = [r for r in records if (r.cell["method"], r.cell["learning_rate"]) != ("lora", 1e-2)]
    comparison = mora_at_step_300(without).comparison
    assert comparison.verdict == "undecided"
    assert comparison.reasons == ("LoRA, r = 8: the learning rate 0.003 is the highest that was tried",)
    assert comparison.interval == mora_at_step_300(records).comparison.interval


def with_floor(records, floor):
    """The records, each with this floor of its own."""
    for record in records:
        record.metrics["final"]["char_accuracy_floor"] = floor
    return records


def test_two_values_that_are_not_above_their_floors_have_no_mark():
    """MoRA is at 50 %, LoRA at 16 %: below the floor nothing is said about them, and neither is the best."""
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    entry = mora_at_step_300(with_floor(records, 13.4))
    assert (entry.comparison.verdict, entry.best, entry.floor) == ("better", True, pytest.approx(13.4))
    below = mora_at_step_300(with_floor(records, 60.0))
    assert (below.comparison.verdict, below.best, below.floor) == ("undecided", False, 60.0)
    assert below.comparison.reasons == ("neither can be told from its floor",)
    assert below.comparison.interval == entry.comparison.interval
    between = mora_at_step_300(with_floor(records, 20.0))
    assert (between.comparison.verdict, between.best) == ("better", False)  # LoRA alone is at its floor


@pytest.mark.parametrize("at_the_floor", ["mora", "lora"])
def test_whichever_of_two_values_is_above_its_floor_the_difference_is_marked(at_the_floor):
    """The verdict must not depend on which of the two rows is the reference."""
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    for record in records:
        record.metrics["final"]["char_accuracy_floor"] = 99.0 if record.cell["method"] == at_the_floor else 5.0
    assert mora_at_step_300(records).comparison.verdict == "better"


def test_a_run_that_diverged_at_the_selected_rate_leaves_the_difference_undecided():
    """Else a method that fails with some seeds would be compared by its survivors alone."""
    lora, mora = SETTINGS[1], SETTINGS[0]
    records = [*synthetic.searched(lora, range(4)), *synthetic.searched(mora, range(3))]
    diverged = synthetic.diverged(mora, synthetic.BEST, 3)
    entry = mora_at_step_300([*records, diverged])
    assert entry.comparison.verdict == "undecided"
    assert entry.comparison.reasons == ("MoRA, r = 8: 1 of 4 runs at the learning rate 0.003 diverged",)
    assert mora_at_step_300(records).comparison.verdict == "better"


def test_a_column_of_a_step_has_the_rate_that_learns_soonest():
    """The last column has the rate with the lowest loss at the end; the table says both, and both searches."""
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    records += [synthetic.record(SETTINGS[0], 1e-3, seed) for seed in (1, 2)]
    for record in records:
        if record.cell["method"] == "mora":
            soonest = record.cell["learning_rate"] == 1e-3
            for row in record.metrics["curve"]:
                row["char_accuracy"] = 90.0 if soonest else 30.0
    table = tables.fill(study_file.get("table2"), Results("laptop", records, FIXED))
    (row,) = (row for row in table.entries if row[0].row.label == "MoRA, r = 8")
    assert [entry.filled.selection.rate for entry in row] == [1e-3] * 4 + [3e-3] * 2
    assert row[0].values == dict.fromkeys(range(3), 90.0)
    shown = [line[5] for line in wording.details(table)[1] if line[0] == "MoRA, r = 8"]
    assert [text.split(" (")[0] for text in shown] == [
        "0.001 by mean character accuracy over the training, the lowest that was tried",
        "0.003 by loss on values, nats a token",
    ]
    assert any("highest mean character accuracy over the training" in note for note in wording.footnotes(table))


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.000341, "0.00034"),
        (0.0999, "0.100"),
        (0.12, "0.12"),
        (2.5, "2.50"),
        (0.0, "0.00"),
        (1e-12, "0.0000000000010"),
    ],
)
def test_a_loss_that_is_almost_zero_keeps_two_digits(number, shown):
    column = next(c for c in study_file.get("table2").columns if c.metric == "value_loss")
    assert wording.value(number, column) == shown
    interval = statistics.Interval(-0.00019, -0.000281, -0.0001, 3)
    assert wording.interval(interval, column) == "-0.00019 [-0.00028, -0.00010]"


def test_without_a_floor_of_its_own_a_record_has_that_of_the_task():
    record = synthetic.record(SETTINGS[0], synthetic.BEST, 0)
    assert measures.floor(record, "char_accuracy") == pytest.approx(9.765625)
    assert measures.floor(record, "value_loss") is None
    record.metrics["final"]["char_accuracy_floor"] = 13.7
    assert measures.floor(record, "char_accuracy") == 13.7


def test_the_floor_is_said_in_words():
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    table = tables.fill(study_file.get("table2"), Results("laptop", with_floor(records, 13.4), FIXED))
    note = (
        "The floor of character accuracy is 13.4 %, which the best answer that is the same for every key gets. No "
        "difference is marked between two values that cannot be told from their floors: of each, the interval of the "
        "differences from the floor over seeds is not above zero."
    )
    assert note in wording.footnotes(table)


def test_a_column_that_no_run_measured_is_named():
    """Such as a benchmark that is not among `task.benchmarks`."""
    entries = {
        "base": {"task": "biomed"},
        "rows": {"LoRA": {"method": "lora"}, "MoRA": {"method": "mora"}},
        "ranks": ["r8"],
        "columns": ["pubmedqa", "usmle"],
    }
    study = study_file.of_entries("mine", entries)

    def notes(*measured):
        records = [r for cell in study.cells("laptop") for r in synthetic.searched(FIXED.setting(cell), (0, 1))]
        for record in records:
            record.metrics["final"] = dict.fromkeys(measured, 50.0)
        table = tables.fill(study, Results("laptop", records, FIXED))
        return [note for note in wording.footnotes(table) if "did not measure" in note]

    assert notes("pubmedqa", "usmle") == []
    (note,) = notes("pubmedqa")
    assert note.startswith("Runs have finished and did not measure: USMLE.")
    table = tables.fill(study, Results("laptop", [], FIXED))
    assert not any("did not measure" in note for note in wording.footnotes(table))


def test_runs_from_several_base_models_are_named():
    """A seed has its own random weights in a model without a base, so seeds may differ; two runs of a seed may not."""
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]

    def notes(revision):
        for record in records:
            record.provenance["model_revision"] = revision(record)
        table = tables.fill(study_file.get("table2"), Results("laptop", records, FIXED))
        return [n for n in wording.footnotes(table) if "same weights" in n]

    assert notes(lambda record: f"llama-seed{record.cell['seed']}") == []
    model = records[0].cell["model"]
    assert notes(lambda record: {"mora": "1a", "lora": "2b"}[record.cell["method"]]) == [
        f"Not all runs of {model} started from the same weights (revisions 1a, 2b): a difference may be one of the "
        "base models."
    ]


def test_the_value_loss_stands_beside_the_accuracy():
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    table = tables.fill(study_file.get("table2"), Results("laptop", records, FIXED))
    assert [c.metric for c in table.columns] == ["char_accuracy"] * 5 + ["value_loss"]
    (row,) = (row for row in table.entries if row[0].row.label == "MoRA, r = 8")
    runs = [r for r in records if (r.cell["method"], r.cell["learning_rate"]) == ("mora", synthetic.BEST)]
    assert row[-1].values == {r.cell["seed"]: r.metrics["final"]["value_loss"] for r in runs}
    assert (row[-1].comparison.verdict, row[-1].best) == ("better", True)


def test_a_column_of_ours_without_values_is_left_out():
    setting = FIXED.setting(Cell("math", "mora", 8))
    table = tables.fill(
        study_file.get("table1"), Results("laptop", synthetic.measured(setting, [{"gsm8k": 1.0}]), FIXED)
    )
    assert [c.name for c in table.columns] == [
        "gsm8k", "mmlu_0shot", "mmlu_5shot", "math", "biomed_avg", "finance_avg"
    ]  # fmt: skip
    measured = synthetic.measured(setting, [{"answer_bits_per_byte": 1.0}])
    table = tables.fill(study_file.get("table1"), Results("laptop", measured, FIXED))
    assert [c.name for c in table.columns if c.ours] == ["math_answer_bits_per_byte"]
    assert table.columns[0].name == "math_answer_bits_per_byte"  # what has values comes first
    uuid = [c.name for c in tables.fill(study_file.get("table4"), Results("laptop", [], FIXED)).columns]
    assert uuid == ["r8", "r256", "uuid_r8", "uuid_r256"]


def mora_in_table_1(column, values, reference_values, **settings):
    """Table 1 with these values of a metric of mathematics for MoRA and LoRA at r = 8, and MoRA's entry."""
    records = [
        dataclasses.replace(record, config=record.config | {"task": settings})
        for method, finals in (("mora", values), ("lora", reference_values))
        for record in synthetic.measured(FIXED.setting(Cell("math", method, 8)), [{column: value} for value in finals])
    ]
    table = tables.fill(study_file.get("table1"), Results("laptop", records, FIXED))
    (entry,) = (e for row in table.entries for e in row if e.row.label == "MoRA, r = 8" and e.column.metric == column)
    return table, entry


@pytest.mark.parametrize(
    ("column", "values", "shown"),
    [
        ("answer_bits_per_byte", [0.672, 0.676, 0.674], "0.674 ± 0.002 (3)"),
        ("answer_bits_per_byte", [0.66, 0.68], "0.67 ± 0.01 (2)"),
        ("answer_bits_per_byte", [0.67, 0.67], "0.67 ± 0.00 (2)"),
        ("gsm8k", [60.0, 60.02], "60.0 ± 0.0 (2)"),
    ],
)
def test_a_deviation_that_is_not_zero_is_not_shown_as_zero(column, values, shown):
    """A percentage is a share of counted answers, so it keeps its one decimal place."""
    _, entry = mora_in_table_1(column, values, values)
    assert wording.ours(entry) == shown


def test_a_difference_over_few_questions_is_not_marked():
    """Every seed says 60 and 40 %: of 1,319 questions that is a difference, of 32 it is not."""
    table, entry = mora_in_table_1("gsm8k", [60.0] * 4, [40.0] * 4)
    assert entry.comparison.verdict == "better"
    (note,) = (n for n in wording.footnotes(table) if n.startswith("Every seed answers the same questions"))
    assert "(GSM8K)" in note
    _, entry = mora_in_table_1("gsm8k_subset", [60.0] * 4, [40.0] * 4, questions=32)
    assert entry.comparison.verdict == "undecided"


def test_a_footnote_says_over_how_many_documents_a_loss_is_a_mean():
    table, entry = mora_in_table_1("answer_bits_per_byte", [0.5, 0.5], [0.7, 0.7], heldout_rows=200)
    assert entry.comparison.verdict == "better"
    assert (
        "The bits per byte of held-out answers of math is measured on 200 held-out texts, the same for every seed: its "
        "interval knows the seeds, and not what other texts would give."
    ) in wording.footnotes(table)


def biomed_table(of_other_rates):
    """Table 6, of FFT and LoRA at r = 8, whose perplexity at the rates that are not selected is `of_other_rates`."""
    records = []
    for method, rank in (("fft", None), ("lora", 8)):
        for record in synthetic.measured(FIXED.setting(Cell("biomed", method, rank)), [{"heldout_perplexity": 90.0}]):
            if record.cell["learning_rate"] != synthetic.BEST:
                record.metrics["final"]["heldout_perplexity"] = of_other_rates[method]
            record.provenance["hardware"] = {"processor": "A" if method == "fft" else "B"}
            records.append(record)
    return tables.fill(study_file.get("table6"), Results("laptop", records, FIXED))


def test_a_footnote_says_where_another_rate_is_best_by_the_main_metric():
    notes = " ".join(wording.footnotes(biomed_table({"fft": 80.0, "lora": 95.0})))
    said = "other rates are best: FFT: 0.001 (80.00; 0.003: 90.00). A difference whose sign"
    assert f"not selected by held-out perplexity. By this number, in the runs of the search, {said}" in notes
    assert "other rates are best" not in " ".join(wording.footnotes(biomed_table({"fft": 95.0, "lora": 95.0})))
    close = " ".join(wording.footnotes(biomed_table({"fft": 89.998, "lora": 95.0})))
    assert "other rates are best: FFT: 0.001 (89.998; 0.003: 90.000)." in close  # not 90.00 twice


def test_a_footnote_names_the_processors():
    assert any(
        "different processors (A: 1, B: 1)" in note
        for note in wording.footnotes(biomed_table({"fft": 95.0, "lora": 95.0}))
    )
    records = synthetic.small_set(FIXED)
    for record, hardware in zip(records, ("a text", {"processor": 3}, {}, None), strict=False):
        record.provenance["hardware"] = hardware  # a file may hold anything
    alike = tables.fill(study_file.get("table2"), Results("laptop", records, FIXED))
    assert not any("processors" in note for note in wording.footnotes(alike))


def test_a_doubtful_comparison_takes_no_place_in_the_correction():
    """MoRA's p-value is 0.036, FFT's far smaller. Where FFT is in doubt, that of MoRA is multiplied by two."""
    values = {"mora": (11.4, 12.0, 12.8), "fft": (20.0, 20.02, 20.01), "lora": (10.0, 10.0, 10.0)}

    def verdict(doubtful):
        records = []
        for method, accuracies in values.items():
            setting = FIXED.setting(Cell("uuid", method, None if method == "fft" else 8))
            for record in synthetic.measured(setting, [{"char_accuracy": value} for value in accuracies]):
                if not (doubtful and method == "fft" and record.cell["learning_rate"] > synthetic.BEST):
                    records.append(record)
        rows = {"LoRA": {"method": "lora", "ranks": ["r8"]}, "MoRA": {"method": "mora", "ranks": ["r8"]}}
        entries = {"base": {"task": "uuid"}, "rows": rows | {"FFT": {"method": "fft"}}, "reference": "LoRA"}
        study = study_file.of_entries("own", entries | {"columns": ["char_accuracy"]})
        table = tables.fill(study, Results("laptop", records, FIXED))
        return {row[0].row.family: row[0].comparison.verdict for row in table.entries if row[0].comparison}

    assert verdict(doubtful=False) == {"MoRA": "better", "FFT": "better"}
    assert verdict(doubtful=True) == {"MoRA": "undecided", "FFT": "undecided"}


def test_a_footnote_says_how_many_questions_were_cut():
    """Those of the runs that the table shows; a benchmark of lm-eval stands before the colon of its metrics."""
    table, entry = mora_in_table_1("gsm8k_subset", [40.0, 41.0], [39.0, 40.0])
    assert not any("longer than the model reads" in note for note in wording.footnotes(table))
    for seed, count in enumerate((3.0, 5.0)):
        cut = {"gsm8k_subset_cut": count, "mine:acc": 1.0, "mine_cut": 2.0, "price_cut": 7.0}
        entry.filled.selected[seed].metrics["final"] |= cut
    (note,) = (note for note in wording.footnotes(table) if "longer than the model reads" in note)
    assert note.endswith("their first tokens were cut off: 3 or 5 of gsm8k_subset, 2 of mine.")


def league_entries(values, reference=("LoRA", "MoRA")):
    """The entries of a study of one column, with these values of the seeds of each method."""
    rows = {methods.label(name): {"method": name} for name in values}
    entries = {"base": {"task": "uuid"}, "rows": rows, "ranks": ["r8"], "columns": ["char_accuracy"]}
    study = study_file.of_entries("some", entries | {"reference": list(reference)})
    records = []
    for cell in study.cells("laptop"):
        finals = [{"char_accuracy": value} for value in values[cell.method]]
        records += synthetic.measured(FIXED.setting(cell), finals)
    return {row[0].row.family: row[0] for row in tables.fill(study, Results("laptop", records, FIXED)).entries}


def test_a_row_is_compared_with_each_reference_and_the_first_is_marked():
    found = league_entries({"lora": [50, 50.1, 49.9], "mora": [60, 60.2, 59.9], "dora": [55, 55.1, 55]})
    compared = {family: [(c.reference, c.verdict) for c in entry.comparisons] for family, entry in found.items()}
    assert compared == {
        "LoRA": [],
        "MoRA": [("LoRA, r = 8", "better")],
        "DoRA": [("LoRA, r = 8", "better"), ("MoRA, r = 8", "worse")],
    }
    assert found["DoRA"].comparison.reference == "LoRA, r = 8"
    without = league_entries({"mora": [60, 60.2, 59.9], "dora": [55, 55.1, 55]}, ["MoRA"])
    assert without["DoRA"].comparison.reference == "MoRA, r = 8"


def test_the_number_of_rows_is_corrected_for():
    """MoRA's interval excludes zero just so: this decides with one row, and not among three."""
    lora, mora = [50, 50, 50], [51.5, 52.2, 53]
    alone = league_entries({"lora": lora, "mora": mora}, ["LoRA"])["MoRA"].comparison
    assert alone.verdict == "better"
    assert 0.017 < alone.interval.p_above(0) < 0.05
    others = {"dora": [50, 51, 49], "lora_plus": [48, 51, 50]}
    among = league_entries({"lora": lora, "mora": mora} | others, ["LoRA"])["MoRA"].comparison
    assert among.interval == alone.interval
    assert (among.verdict, among.reasons) == (
        "undecided",
        ("not clear enough where 3 rows are compared (Holm's correction)", "about 4 seeds would decide"),
    )


def test_rows_that_were_not_run_yet_count_too():
    """Else a mark would go when a further row is run."""
    lora, mora = [50, 50, 50], [51.5, 52.2, 53]
    among = league_entries({"lora": lora, "mora": mora, "dora": [], "lora_plus": []}, ["LoRA"])["MoRA"].comparison
    assert among.reasons[0] == "not clear enough where 3 rows are compared (Holm's correction)"


def test_the_answer_of_a_study_without_runs_says_so():
    table = tables.fill(study_file.get("table2"), Results("laptop", []))
    assert answers.final_text(table) == "Character accuracy, %, mean ± standard deviation (seeds): no runs yet.\n\n"


def test_a_row_over_several_cells_shows_the_cost_of_each():
    study = study_file.get("table4")
    cells = {c.name: study.cell(study.rows[1], c) for c in study.columns if c.name in ("uuid_r8", "uuid_r256")}
    records = [r for cell in cells.values() for r in synthetic.searched(FIXED.setting(cell), (0, 1))]
    table = tables.fill(study, Results("laptop", records, FIXED))
    costs = wording.row_costs(table.entries[1])
    assert costs["trainable_parameters"] == "4,000; 32,000"
    assert costs["peak_memory_bytes"] == "512"
    assert "4,000; 32,000" in latex.fragment(table)
    assert wording.row_costs(table.entries[0])["trainable_parameters"] == wording.DASH


def test_a_search_says_what_became_of_each_run():
    setting = SETTINGS[0]
    low, best, high = setting.candidates
    runs = [
        synthetic.record(setting, low, 0, status="running"),
        synthetic.record(setting, best, 0),
        synthetic.diverged(setting, high, 0),
        synthetic.record(setting, 0.03, 0, status="failed"),
        synthetic.record(setting, 0.1, 0),
    ]
    runs[-1].metrics["final"] = {}
    filled = Results("laptop", runs, FIXED).cell(setting.cell)
    said = wording.rate_search(filled)
    for part in ("(0.001: running", "0.01: diverged", "0.03: failed", "0.1: no value"):
        assert part in said
    lost = dataclasses.replace(filled, runs={high: {0: runs[2]}})
    assert "=64: diverged" in wording.rate_search(
        dataclasses.replace(
            filled, variants=[filled, dataclasses.replace(lost, cell=dataclasses.replace(lost.cell, options=("a=64",)))]
        )
    )


def test_texts_of_a_user_end_no_cell_of_a_markdown_table():
    rows = {"LoRA | 99.9 | <b>x</b>": {"method": "lora"}, "MoRA": {"method": "mora"}}
    columns = {"a": {"metric": "char_accuracy", "label": "a | b"}}
    entries = {"title": "One | *two*", "base": {"task": "uuid"}, "rows": rows, "columns": columns}
    study = study_file.of_entries("pipes", entries | {"reference": "LoRA | 99.9 | <b>x</b>"})
    lora, mora = (FIXED.setting(study.cell(row, study.columns[0])) for row in study.rows)
    records = [r for s in (lora, mora) for r in synthetic.searched(s, (0, 1, 2))]
    text = markdown.page(tables.fill(study, Results("laptop", records, FIXED)))
    assert text.startswith("# One \\| \\*two\\* (scale: laptop)")
    assert "<b>" not in text
    tables_of_page = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in tables_of_page if "99.9" in line and "± " in line}
    assert widths == {4}  # the label and one value


def test_code_with_a_bar_ends_no_cell():
    assert markdown.code("dW = B A") == "`dW = B A`"
    assert markdown.code("|W| * B_a") == "<code>&#124;W&#124; \\* B\\_a</code>"


def test_two_columns_with_one_label_both_stand_in_the_table():
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]
    table = tables.fill(study_file.get("table2"), Results("laptop", records, FIXED))
    alike = dataclasses.replace(table, columns=tuple(dataclasses.replace(c, label="x") for c in table.columns))
    assert wording.cells(alike, "%s").shape == wording.cells(table, "%s").shape


def test_runs_in_several_number_formats_are_named():
    records = [r for s in SETTINGS for r in synthetic.searched(s, (0, 1, 2))]

    def notes(precision):
        for record in records:
            record.identity["hardware"] = {"precision": precision(record)}
        table = tables.fill(study_file.get("table2"), Results("laptop", records, FIXED))
        return [n for n in wording.footnotes(table) if "number formats" in n]

    assert notes(lambda record: "fp32") == []
    assert notes(lambda record: {"mora": "bf16", "lora": "fp32"}[record.cell["method"]]) == [
        "The runs trained in different number formats (bf16, fp32): a difference may be one of the formats."
    ]


def test_a_percentage_beside_0_to_100_is_no_share_of_questions():
    _, entry = mora_in_table_1("gsm8k", [110.0, 131.0, 120.0], [90.0, 95.0, 91.0])
    assert entry.comparison.verdict == "undecided"
    assert entry.comparison.reasons == ("GSM8K is not a share of its questions: a value lies outside 0 to 100 %",)


@pytest.mark.parametrize(("metric", "is_mean"), [("acc", True), ("exact_match", True), ("f1", False), ("mcc", False)])
def test_a_number_that_is_no_mean_over_its_questions_decides_nothing(metric, is_mean):
    """The variance of a share of so many questions would give 14 to 34 % of false verdicts for `f1` and `mcc`."""
    found = statistics.interval([5.0, 5.1, 4.9])
    run = synthetic.record(FIXED.setting(Cell("uuid", "lora", 8)), synthetic.BEST, 0)
    run.metrics["final"][f"cola:{metric}_questions"] = 10_000
    _, reason = question_samples.known(found, tasks.get("custom").metric(f"cola:{metric}"), (60.0, 55.0), [run])
    assert (reason == "") == is_mean


def test_a_small_difference_of_percentages_is_not_shown_as_nothing():
    column = next(c for c in study_file.get("table2").columns if c.metric == "char_accuracy")
    assert wording.interval(statistics.Interval(0.04, 0.03, 0.049, 3), column) == "+0.040 [+0.030, +0.049]"
    assert wording.interval(statistics.Interval(0.04, -0.1, 0.18, 3), column) == "+0.0 [-0.1, +0.2]"
