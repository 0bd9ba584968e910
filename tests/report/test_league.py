"""The page about all methods, and the question whether the rank of an update predicts its score."""

import dataclasses

import pytest

from experiments.report import figures, method_page, plots, rank_question, tables
from experiments.spec import methods
from experiments.study import study_file
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")
METHODS = ("lora", "dora", "lora_plus", "asylora", "mora", "randproj")


@pytest.fixture
def study():
    return league(["r8"])


def league(ranks):
    rows = {methods.label(name): {"method": name} for name in METHODS}
    columns = ["char_accuracy", "value_loss"]
    entries = {"title": "League", "base": {"task": "uuid"}, "rows": rows, "ranks": ranks, "columns": columns}
    return study_file.of_entries("league", entries | {"figures": ["rank"], "reference": "LoRA"})


def results_with(study, ranks, accuracies):
    """Results in which the runs of each method measured these ranks and accuracies, and a loss that falls with both."""
    records = []
    for cell in study.cells("laptop"):
        i = METHODS.index(cell.method)
        for record in synthetic.searched(FIXED.setting(cell), (0, 1)):
            seed = record.cell["seed"]
            more = 100 if cell.rank == 256 else 0  # more parameters have both a higher rank and a better score
            record.metrics["spectrum"] = {"q_proj": {"above": more + ranks[i] + 0.1 * seed, "layers": 1}}
            accuracy = more / 4 + accuracies[i]
            worse = record.cell["learning_rate"] != synthetic.BEST
            record.metrics["final"] |= {"char_accuracy": accuracy, "value_loss": 5 - accuracy / 50 + worse}
            records.append(record)
    return Results("laptop", records, FIXED)


RISING = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0)


@pytest.mark.parametrize(
    ("accuracies", "answer"),
    [(RISING, "yes"), (RISING[::-1], "no"), ((30.0, 10.0, 60.0, 20.0, 50.0, 35.0), "undecided")],
)
def test_the_answer_counts_what_is_better(study, accuracies, answer):
    """A loss that falls while the rank rises is a yes, as an accuracy that rises is."""
    asked = rank_question.questions(tables.fill(study, results_with(study, RISING, accuracies)))
    assert {question.column.name: question.answer for question in asked} == dict.fromkeys(
        ("char_accuracy", "value_loss"), answer
    )
    assert [len(question.points) for question in asked] == [6, 6]
    assert all("over 6 rows" in question.text for question in asked)


@pytest.mark.parametrize(("accuracies", "answer"), [(RISING, "yes"), (RISING[::-1], "no")])
def test_the_question_is_asked_for_each_rank_alone(accuracies, answer):
    """Over both ranks together the answer would be yes: the higher rank has more parameters."""
    study = league(["r8", "r256"])
    asked = rank_question.questions(tables.fill(study, results_with(study, RISING, accuracies)))
    assert [(question.rank, question.answer, len(question.points)) for question in asked] == [
        (8, answer, 6),
        (256, answer, 6),
    ] * 2


def test_the_figure_shows_each_row_and_the_answer(study):
    with plots.style():
        drawn = dict(figures.figures_of(study, results_with(study, RISING, RISING)))
    assert drawn.keys() == {"rank_league_char_accuracy_r8", "rank_league_value_loss_r8"}
    figure = drawn["rank_league_char_accuracy_r8"]
    axes = figure.axes[0]
    assert "Does a higher rank score better? yes: rank correlation 1.00" in figure.get_suptitle()
    labels = sorted(axes.texts, key=lambda text: text.get_position()[1])
    assert [text.get_text() for text in labels] == [f"{methods.label(name)}, r = 8" for name in METHODS]  # by score


def test_without_spectra_there_is_no_figure(study):
    records = [r for cell in study.cells("laptop") for r in synthetic.searched(FIXED.setting(cell), (0,))]
    assert list(figures.figures_of(study, Results("laptop", records, FIXED))) == []


def test_the_page_has_a_line_for_each_method_and_the_results_of_the_league(study, monkeypatch):
    monkeypatch.setattr(study_file, "get", lambda name: study)
    lines = method_page.page([results_with(study, RISING, RISING)]).splitlines()
    for name in METHODS:
        (line,) = (line for line in lines if f"(`{name}`)" in line)
        assert methods.notes(name).summary[:20] in line
    assert [line for line in lines if "(`lokr`)" in line and "decompose_factor=the best of" in line]
    (line,) = (line for line in lines if "(`randproj`)" in line)
    assert "`dW = Q M P" in line
    assert "projection_seed=0" in line
    assert not [line for line in lines if "(`fft`)" in line]
    text = "\n".join(lines)
    assert "### Scale laptop" in text
    assert "Of the rows at r = 8, does a higher rank of the update give a better" in text
    assert "peak memory, MiB" in text


def test_the_page_says_where_nothing_was_run(study, monkeypatch):
    monkeypatch.setattr(study_file, "get", lambda name: study)
    assert "Nothing was run yet: `python scripts/plan.py league" in method_page.page([])


def test_two_rows_with_the_same_runs_are_one_point(study):
    """A row with a searched setting whose default was best has the runs of the row without the search."""
    results = results_with(study, RISING, RISING)
    twin = dict(study.file["rows"]) | {"LoRA, alpha searched": {"method": "lora", "method.alpha": 8}}
    both = study_file.of_entries("league", study.file | {"rows": twin})
    searched = next(row for row in both.rows if row.family == "LoRA, alpha searched")
    lora = results.cell(study.cell(study.rows[0], study.columns[0]))
    cell = both.cell(searched, both.columns[0])
    results.put(dataclasses.replace(lora, cell=cell))
    asked = rank_question.questions(tables.fill(both, results))[0]
    assert [point.label for point in asked.points].count("LoRA, r = 8") == 1
    assert (len(asked.points), asked.correlation.n) == (6, 6)


def test_a_row_at_its_floor_or_with_a_doubtful_rate_is_left_out_and_named(study):
    results = results_with(study, RISING, RISING)
    for record in results.records:
        record.metrics["final"]["char_accuracy_floor"] = 15.0  # LoRA has 10
    edge = [r for r in results.records if r.cell["method"] == "dora" and r.cell["learning_rate"] > synthetic.BEST]
    results = Results("laptop", [r for r in results.records if r not in edge], FIXED)
    asked = rank_question.questions(tables.fill(study, results))[0]
    assert asked.text == "undecided: 4 rows are too few"
    assert asked.left_out == [
        "LoRA, r = 8 (its score cannot be told from its floor)",
        "DoRA, r = 8 (the learning rate 0.003 is the highest that was tried)",
    ]
    with plots.style():
        drawn = dict(figures.figures_of(study, results))["rank_league_char_accuracy_r8"]
    assert "left out: 2 rows in doubt" in drawn.get_suptitle()
    labels = [text.get_text() for text in drawn.axes[0].texts]
    assert [label for label in labels if "left out" in label] == ["LoRA, r = 8 (left out)", "DoRA, r = 8 (left out)"]
    assert len(labels) == 6


def test_rows_with_one_score_are_not_called_too_few(study):
    asked = rank_question.questions(tables.fill(study, results_with(study, RISING, (50.0,) * 6)))[0]
    assert asked.text == "undecided: 6 of 6 rows have the same score"


def test_a_column_in_which_most_rows_have_one_score_answers_nothing(study):
    """Where all but a row are right, the correlation is that of one row."""
    results = results_with(study, RISING, (100.0, 100.0, 100.0, 100.0, 99.0, 98.0))
    asked = rank_question.questions(tables.fill(study, results))[0]
    assert (asked.correlation, asked.text) == (None, "undecided: 4 of 6 rows have the same score")
    with plots.style():
        assert dict(figures.figures_of(study, results)) == {}
    half = results_with(study, RISING, (100.0, 100.0, 100.0, 97.0, 99.0, 98.0))
    assert "over 6 rows" in rank_question.questions(tables.fill(study, half))[0].text


def test_a_row_that_trains_a_part_of_the_budget_is_left_out_and_named(study):
    """Fewer parameters may mean both a lower rank and a worse score."""
    results = results_with(study, RISING, RISING)
    for record in results.records:
        record.cost |= {
            "budget_parameters": 1000,
            "trainable_parameters": 750 if record.cell["method"] == "dora" else 990,
        }
    asked = rank_question.questions(tables.fill(study, results))[0]
    assert asked.left_out == ["DoRA, r = 8 (it trains 75 % of the budget)"]
    assert asked.correlation.n == 5
