"""What the file of a study may say, and the cells that it describes."""

from __future__ import annotations

import argparse

import pytest
import yaml

from experiments.cli import script
from experiments.errors import ConfigError
from experiments.paper import Cell
from experiments.report import pages
from experiments.spec import compose
from experiments.spec.arguments import argument, settings
from experiments.study import printed, study_file
from experiments.study.cells import Protocols

TICKETS = """
title: Support tickets
base: {task: instruct, scale: smoke, model: tiny, task.train_file: "a, b's.jsonl"}
rows:
  LoRA: {method: lora}
  FFT: {method: fft}
  MoRA: {method: mora}
  "LoRA, alpha = r": {method: lora, method.alpha: "${method.rank}"}
ranks: [8, 64]
search: {training.learning_rate: [1e-3, 0.0003], method.dropout: [0, 0.1]}
seeds: 2
reference: LoRA
columns: [answer_bits_per_byte, mmlu_5shot]
"""


def study(text=TICKETS, name="tickets", **entries):
    return study_file.of_entries(name, yaml.safe_load(text) | entries)


def test_rows_go_through_the_ranks_together_and_a_row_without_a_rank_stands_once():
    assert [row.label for row in study().rows] == [
        *("LoRA, r = 8", "LoRA, r = 64", "FFT"),
        *("MoRA, r = 8", "LoRA, alpha = r, r = 8", "MoRA, r = 64", "LoRA, alpha = r, r = 64"),
    ]
    assert study().seeds == (0, 1)
    assert study().scale == "smoke"


def test_a_cell_has_the_arguments_of_base_column_and_row():
    made = study()
    cell = made.cell(made.rows[4], made.columns[0])
    assert cell == Cell(
        "instruct",
        "lora",
        model="tiny",
        options=("method.rank=8", "task.train_file='a, b\\'s.jsonl'", "method.alpha=${method.rank}"),
        search=(("training.learning_rate", (0.0003, 0.001)), ("method.dropout", (0, 0.1))),
    )


def test_a_row_is_compared_with_the_reference_at_its_rank():
    made = study()
    references = references_of(made)
    assert references["MoRA, r = 64"] == ["LoRA, r = 64"]
    assert references["LoRA, r = 8"] == []
    assert references["FFT"] == []  # there are two ranks
    assert references_of(study(ranks=[8]))["FFT"] == ["LoRA, r = 8"]


def test_a_row_is_not_compared_with_a_reference_at_another_rank():
    """MoRA at r = 64 has eight times as many parameters as LoRA at r = 8: their difference would be one of ranks."""
    rows = {"LoRA": {"method": "lora", "ranks": [8]}, "MoRA": {"method": "mora", "ranks": [8, 64]}}
    references = references_of(study(rows=rows))
    assert references["MoRA, r = 8"] == ["LoRA, r = 8"]
    assert references["MoRA, r = 64"] == []


def references_of(made):
    return {row.label: [reference.label for reference in made.references_of(row)] for row in made.rows}


def test_of_several_references_each_pair_is_compared_once():
    references = references_of(study(reference=["LoRA", "MoRA"], ranks=[8]))
    assert references["LoRA, r = 8"] == []
    assert references["MoRA, r = 8"] == ["LoRA, r = 8"]
    assert references["FFT"] == ["LoRA, r = 8", "MoRA, r = 8"]


def test_a_row_adds_to_the_search_of_the_study():
    rows = {"LoRA": {"method": "lora"}, "alpha searched": {"method": "lora", "search": {"method.alpha": [8, 16]}}}
    made = study(rows=rows, ranks=[8])
    plain, searched = (dict(made.cell(row, made.columns[0]).search) for row in made.rows)
    assert searched == plain | {"method.alpha": (8, 16)}
    with pytest.raises(ConfigError, match=r"rows.X.search.method.alpha must be a list of values, got 'bracket'"):
        study(rows={"X": {"method": "lora", "search": {"method.alpha": "bracket"}}})


def test_what_a_study_searches_replaces_the_grid_of_the_protocol():
    made = study(base={"task": "uuid"}, columns=["char_accuracy"])
    setting = Protocols("smoke").setting(made.cell(made.rows[0], made.columns[0]))
    assert setting.candidates == (0.0003, 0.001)
    assert not setting.widens
    variants = [Protocols("smoke").setting(v) for v in setting.variants]
    assert [v.identity["method"]["peft"]["lora_dropout"] for v in variants] == [0, 0.1]
    assert len({v.cell_key for v in variants}) == 2
    assert all(v.candidates == setting.candidates for v in variants)


def test_lists_and_nothing_are_values_that_a_study_may_search():
    choices = [["q_proj", "v_proj"], "all-linear"]
    made = study(base={"task": "uuid"}, columns=["char_accuracy"], search={"method.target_modules": choices})
    setting = Protocols("smoke").setting(made.cell(made.rows[0], made.columns[0]))
    targets = [Protocols("smoke").setting(v).config.method.target_modules for v in setting.variants]
    assert targets == choices
    with pytest.raises(ConfigError, match=r"search.method.peft must hold values or lists of values, got \{'a': 1\}"):
        study(search={"method.peft": [{"a": 1}]})


def test_the_rates_that_a_study_searches_are_not_those_of_a_row_that_trains_nothing():
    rows = {"Base": {"method": "none"}}
    made = study(base={"task": "uuid"}, rows=rows, columns=["char_accuracy"], ranks=[], reference=[])
    setting = Protocols("smoke").setting(made.cell(made.rows[0], made.columns[0]))
    assert (setting.candidates, setting.default_rate) == ((), 0.0)


def test_a_fixed_rate_is_not_searched():
    made = study(base={"task": "uuid", "training.learning_rate": 0.5}, search={}, columns=["char_accuracy"])
    setting = Protocols("smoke").setting(made.cell(made.rows[0], made.columns[0]))
    assert (setting.candidates, setting.widens) == ((0.5,), False)


def test_a_choice_of_a_file_is_composed():
    made = study(base={"task": "uuid", "hardware": "cpu"}, search={}, columns=["char_accuracy"])
    setting = Protocols("smoke").setting(made.cell(made.rows[0], made.columns[0]))
    assert "hardware=cpu" in setting.arguments
    assert setting.config.hardware.device == "cpu"


def test_columns_are_all_metrics_of_the_task_where_none_is_named():
    made = study(base={"task": "uuid"}, columns=[])
    assert [column.name for column in made.columns] == ["char_accuracy", "key_loss", "value_loss"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"rows": {}, "colums": []}, "colums is not an entry of a study; allowed: title, base, rows"),
        ({"rows": {"X": {}}}, "rows.X.method must be one of"),
        ({"rows": {"X": {"method": "nosuch"}}}, "rows.X.method must be one of .*, got 'nosuch'"),
        ({"ranks": [0]}, r"ranks.0: must be a positive integer, or .* such as r8, got 0"),
        *(({"ranks": [rank]}, f"ranks.0: must be .*, got {rank!r}") for rank in ("x8", "8", 1.5, True, None)),
        ({"rows": {"X": {"method": "lora", "ranks": [True]}}}, "rows.X.ranks.0: must be .*, got True"),
        ({"base": {"task": ["uuid"]}}, r"base.task must be a text, got \['uuid'\]"),
        ({"base": {"task": "uuid", "model": {"a": 1}}}, "base.model must be a text, got {'a': 1}"),
        ({"rows": {"X": {"method": ["lora"]}}}, r"rows.X.method must be a text, got \['lora'\]"),
        ({"rows": {"X": {"method": "mora", "method.operator": {"a": 1}}}}, "rows.X.method.operator must be a text"),
        ({"columns": {"loss": {"model": [1]}}}, r"columns.loss.model must be a text, got \[1\]"),
        ({"rows": {"X": {"method": "fft", "label": "X, {rank}"}}}, "rows.X.label has {rank}, and the row has no rank"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": study_file.MOST_SEEDS + 1}, "seeds.*1000"),
        ({"seeds": [1, 1]}, "seeds must be different numbers"),
        ({"reference": "DoRA"}, "reference must be a row"),
        ({"search": {"training.learning_rate": "wide"}}, "must be bracket, or a list of rates, got 'wide'"),
        ({"search": {"training.learning_rate": [-1]}}, "must hold positive numbers, got -1"),
        ({"search": {"method.alpha": "bracket"}}, "must be a list of values"),
        ({"base": {"task": "instruct", "scale": "huge"}}, "base.scale must be one of .*, got 'huge'"),
        ({"base": {"seed": 1}}, "base sets seed"),
        ({"rows": {"X": {"method": "lora", "scale": "paper"}}}, "rows.X sets scale"),
        ({"rows": {"X": {"method": "lora", "scales": ["huge"]}}}, "rows.X.scales has 'huge'"),
        ({"base": {}}, "columns.answer_bits_per_byte has no task"),
        ({"base": {"task": "nosuch"}}, "task.name must be one of"),
        ({"figures": ["pie"]}, "figures has 'pie'; allowed: curves, rates, cost, spectrum, rank"),
        ({"rows": [1]}, "rows"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(entries, message):
    with pytest.raises(ConfigError, match=message) as caught:
        study(**entries)
    assert str(caught.value).startswith("study tickets: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "- a", "a: [", "\x00"])
def test_a_file_that_is_no_study_is_one_line(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"odd\.yaml") as caught:
        study_file.read(path)
    assert "\n" not in str(caught.value)


def test_other_settings_make_a_study_of_their_own_that_can_be_kept(tmp_path):
    plain = study_file.get("table2")
    made = study_file.changed(plain, {"task.pairs": 20})
    assert made.name.startswith("table2-")
    assert made.name == study_file.changed(plain, {"task.pairs": 20}).name
    assert not made.is_of_paper  # the paper's numbers are not of these cells
    assert all("task.pairs=20" in cell.options for cell in made.cells("laptop"))
    study_file.keep(made, tmp_path)
    (kept,) = study_file.of_results(tmp_path)
    assert kept == made
    assert kept.cells("laptop") == made.cells("laptop")


def test_a_study_that_cannot_be_read_does_not_stop_the_others(tmp_path, capsys):
    """Such as a study of a user's own method in a folder of results, where a command does not know the user's files."""
    study_file.keep(study(), tmp_path)
    other = tmp_path / study_file.FOLDER / "other.yaml"
    other.write_text("rows: {A: {method: my_own}}\ncolumns: [char_accuracy]\n")
    options = argparse.Namespace(results=tmp_path, study=["tickets"], scale=None)
    for _ in range(2):
        assert [s.name for s in study_file.of_results(tmp_path)] == ["tickets"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: study {other}: rows.A.method must be one of ")
    assert line.endswith(
        "got 'my_own'; the study is left out (for files of yours: --config-dir DIR, --task-module FILE, "
        "--method-module FILE)"
    )
    assert [s.name for s in script.studies(options)] == ["tickets"]
    with pytest.raises(ConfigError, match="got 'my_own'"):
        script.studies(argparse.Namespace(results=tmp_path, study=["other"], scale=None))


def test_a_label_shows_the_rank_of_its_row():
    rows = {"LoRA": {"method": "lora"}, "high": {"method": "lora", "label": "alpha at r = {rank}"}}
    by_rank = study(rows=rows, ranks=[8, "r64"]).rows
    assert [(row.label, row.own_rank, row.rank) for row in by_rank[1::2]] == [
        ("alpha at r = 8", 8, None),
        ("alpha at r = 64", None, 64),
    ]
    fixed = study(rows=rows, base={"task": "uuid", "method.rank": 4})
    assert [(row.label, row.any_rank) for row in fixed.rows] == [
        ("LoRA", (None, None)),
        ("alpha at r = 4", (None, None)),
    ]
    of_paper = study_file.changed(study_file.get("figure2"), {"method.rank": 8})
    assert [row.label for row in of_paper.rows] == ["FFT", "LoRA", "LoRA, r = 8, alpha = 2 r"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("method.rank", 4), ("method.operator", "rotation"), ("model", "tiny"), ("training.learning_rate", 1e-3)],
)
@pytest.mark.parametrize("place", ["base", "rows", "columns"])
def test_a_sign_in_front_of_a_setting_that_a_study_reads_changes_no_cell(name, value, place):
    def cells(name):
        entries = {
            "base": {"task": "uuid"},
            "rows": {"MoRA": {"method": "mora"}},
            "columns": {"char_accuracy": {"task": "uuid"}},
        }
        (entries["base"] if place == "base" else next(iter(entries[place].values())))[name] = value
        return study_file.of_entries("signs", entries | {"ranks": [8, 64]}).cells("smoke")

    assert cells(f"++{name}") == cells(f"+{name}") == cells(name)


def test_two_rows_of_one_name_are_refused():
    """r8 is 4 at this scale, and is called by the paper's rank."""
    with pytest.raises(ConfigError, match=r"two rows are called 'LoRA, r = 8'.*give one kind of ranks"):
        study(rows={"LoRA": {"method": "lora"}}, ranks=["r8", 8])
    labelled = {"LoRA": {"method": "lora", "ranks": ["r8"]}, "8": {"method": "lora", "ranks": [8], "label": "LoRA (8)"}}
    assert [row.label for row in study(rows=labelled).rows] == ["LoRA, r = 8", "LoRA (8)"]


def test_a_users_folder_may_hold_studies(tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "tickets.yaml").write_text(TICKETS)
    compose.search([str(tmp_path)])
    try:
        assert study_file.get("tickets").title == "Support tickets"
    finally:
        compose.search([])


def test_studies_that_take_each_others_rows_are_refused(tmp_path):
    (tmp_path / "study").mkdir()
    for name, other in (("one", "two"), ("two", "one"), ("three", "three")):
        (tmp_path / "study" / f"{name}.yaml").write_text(f"rows: {other}\ncolumns: [value_loss]\n")
    compose.search([str(tmp_path)])
    try:
        for name in ("one", "three"):
            with pytest.raises(ConfigError, match=r"rows: \w+ takes its own rows from this study$"):
                study_file.get(name)
    finally:
        compose.search([])


@pytest.mark.promise("A folder may have any name, and a study runs in the folder that the command line names.")
@pytest.mark.parametrize(
    "value",
    [
        *(
            "a\\",
            "{",
            "a}",
            "a:b",
            "file:///a b",
            "a",
            "a,b",
            "it's",
            "x=1",
            "${a.b}",
            "true",
            "1",
            "",
            "a b",
            "tail\\'",
            "C:\\x\\",
            "~x",
            "[z]",
            "null",
            "é",
        ),
        *(3, 3e-4, 1e-10, True, None, ["a", "b,c"], {"a": 1, "b": "x y"}, "range(3)", "tab\t"),
    ],
)
def test_an_argument_reads_back_as_its_value(value):
    for given in (value, [value, value], {"a": value}):
        (back,) = settings([argument("x", given)]).values()
        assert (back, type(back)) == (given, type(given))


@pytest.mark.parametrize("named", ["[gsm8k, 'wikitext:word_perplexity']", ["gsm8k", "wikitext:word_perplexity"]])
def test_a_study_of_ones_own_data_has_the_columns_of_its_benchmarks(named):
    base = {"task": "custom", "scale": "smoke", "task.train_file": "a.jsonl", "task.benchmarks": named}
    made = study(base=base, columns=[])
    assert [column.name for column in made.columns] == [
        *("heldout_loss", "heldout_bits_per_byte", "heldout_perplexity", "gsm8k", "wikitext:word_perplexity"),
        "general_perplexity",
    ]
    assert not made.columns[4].info.higher_is_better
    (column,) = study(base=base, columns=["gsm8k"]).columns
    assert (column.label, column.info.unit) == ("gsm8k", "%")
    (loss,) = study(base=base, columns=["loss"]).columns
    assert loss.info.unit == ""


def test_columns_of_one_metric_have_different_labels():
    """A table has one column for each, and a reader must know which is which."""
    read = study(columns={"half": {"metric": "mmlu_5shot", "at": 0.5}, "end": {"metric": "mmlu_5shot"}})
    assert [column.label for column in read.columns] == ["MMLU 5-shot, 50 % of training", "MMLU 5-shot"]
    at_ranks = study(columns={name: {"metric": "mmlu_5shot", "rank": name} for name in ("r8", "r256")})
    assert [column.label for column in at_ranks.columns] == ["MMLU 5-shot, r = 8", "MMLU 5-shot, r = 256"]
    with pytest.raises(ConfigError, match=r"columns a and b are both called 'MMLU 5-shot'; give each a label"):
        study(columns={"a": {"metric": "mmlu_5shot"}, "b": {"metric": "mmlu_5shot"}})


def test_a_study_of_the_user_that_cannot_be_read_stops_no_run_and_no_page(tmp_path, capsys):
    """Its task may be in a Python file that this command does not name."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text("rowz: {}\n")
    (tmp_path / "study" / "fine.yaml").write_text(TICKETS)
    compose.search([str(tmp_path)])
    try:
        identity = Protocols("laptop").setting(Cell("uuid", "lora", 8)).run_identity(1e-3, 0)
        assert printed.paper_values_of(identity)
        names = [known.name for known in pages.known_studies(tmp_path)]
    finally:
        compose.search([])
    assert "fine" in names
    assert "table2" in names
    assert "mine" not in names
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: study {tmp_path / 'study' / 'mine.yaml'}: rows is missing; ")


def test_a_search_that_is_no_list_is_named_by_its_setting():
    with pytest.raises(ConfigError, match=r"rows.X.search.method.alpha must be a list of values, got 3$"):
        study(rows={"X": {"method": "lora", "search": {"method.alpha": 3}}})
