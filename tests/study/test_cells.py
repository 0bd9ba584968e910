"""What the paper prints for a run: matched by the whole cell."""

from __future__ import annotations

import pytest

from experiments import paper
from experiments.identity import identity_of
from experiments.spec import scales
from experiments.study import study_file
from experiments.study.cells import protocols
from experiments.study.printed import paper_values_of, tables_of

from .. import synthetic
from ..conftest import compose


def paper_values(*overrides):
    return paper_values_of(identity_of(compose("hardware=cpu", *overrides)))


@pytest.mark.parametrize(
    ("overrides", "row"),
    [
        (["method=mora"], ("mora", 8)),
        (["method=mora", "method.rank=32"], ("mora", 256)),
        (["method=fft"], ("fft", None)),
        (["method=lora", "method.rank=32", "training.learning_rate=0.5", "seed=4"], ("lora", 256)),
    ],
)
def test_a_run_is_shown_beside_its_row(overrides, row):
    rows = {(r["method"], r["rank"]): r["values"] for r in paper.paper_json()["table2"]["rows"]}
    assert [p.value for p in paper_values(*overrides)] == list(rows[row].values())
    assert {p.model for p in paper_values(*overrides)} == {"LLaMA-2 7B"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lora", "method.rank=32", "method.alpha=64"],  # the variant alpha = 2 r is not the paper's row
        ["method=mora", "training.steps=900"],
        ["method=mora", "method.rank=5"],
        ["method=remora", "task=pretrain", "method.groupings=four"],
        ["method=mora", "task=math", "method.operator=decouple", "method.surplus=fold"],
    ],
)
def test_a_variant_is_not_told_the_value_of_the_plain_row(overrides):
    assert paper_values(*overrides) == []


def test_the_command_of_a_cell_names_its_rank_at_every_rank():
    """Only the lowest and the highest rank have names in every protocol; Figure 2 has ranks between them."""
    resolved = {rank: protocols("laptop").command(paper.Cell("uuid", "lora", rank)) for rank in (8, 16, 64, 256)}
    assert resolved[64] == protocols("laptop").setting(paper.Cell("uuid", "lora", 64)).command
    assert len(set(resolved.values())) == 4
    assert all(rank == 8 or "method.rank=" in command for rank, command in resolved.items())


@pytest.mark.parametrize(("task", "rank"), [("uuid", 128), ("pretrain", 8), ("pretrain", 256)])
def test_a_rank_of_another_tasks_tables_is_given_as_a_number(task, rank):
    """r = 128 is the name of a rank in pretraining only, and r = 8 of one in every other task."""
    cell = paper.Cell(task, "lora", rank)
    command = protocols("paper").command(cell)
    assert command == protocols("paper").setting(cell).command
    assert f"method.rank={rank}" in command


def test_a_variant_belongs_to_the_table_that_has_its_row():
    identity = identity_of(compose("hardware=cpu", "method=lora", "method.rank=32", "method.alpha=64"))
    assert tables_of(identity) == ["table2"]


def test_a_rank_of_figure_2_is_told_the_value_of_the_figure():
    (value,) = paper_values("method=lora", "method.rank=8")  # stands for the paper's 64
    assert value.where.startswith("Figure 2, training loss at step ")


def test_operators_have_rows_of_their_own():
    assert [p.where for p in paper_values("task=math", "method=mora", "method.operator=truncation")] == [
        "Table 4, GSM8K, r = 8"
    ]
    where = [p.where for p in paper_values("task=math", "method=mora")]  # rotation, which Table 1 has too
    assert "Table 4, GSM8K, r = 8" in where
    assert "Table 1, GSM8K" in where


@pytest.mark.parametrize(
    ("overrides", "column", "model"),
    [
        (["scale=laptop"], "250M", "LLaMA 250M"),
        (["scale=paper"], "250M", "LLaMA 250M"),
        (["scale=paper", "model=llama-1.3b"], "1.3B", "LLaMA 1.3B"),
    ],
)
def test_the_model_belongs_to_the_column(overrides, column, model):
    (value,) = paper_values("task=pretrain", "method=lora", *overrides)
    assert (value.where, value.model) == (f"Table 3, {column}", model)


POSTED = [
    ("table1", 1, "relora", 8),
    ("table1", 1, "relora", 256),
    ("table3", 3, "relora", 128),
    ("table3", 3, "remora", 128),
]


@pytest.mark.parametrize(("name", "number", "method", "rank"), POSTED)
def test_restarts_stand_at_paper_scale_as_in_the_text_and_as_in_the_authors_command(name, number, method, rank):
    """The text: the jagged schedule, two groupings. The posted command: the defaults of the code, which are others."""
    groupings = {"two", "four"} if method == "remora" else {None}
    layout = study_file.get(name).at("paper")
    rows = {row.label: row for row in layout.rows if (row.method, row.rank) == (method, rank)}
    posted = rows.pop(next(label for label in rows if "lifted schedule" in label))
    settings = {}
    for row in (*rows.values(), posted):
        identity = protocols("paper").setting(layout.cell(row, layout.columns[0])).identity
        settings[row.label] = identity["method"]["restart_schedule"], identity["method"].get("groupings")
        assert name in tables_of(identity)
        assert not (row is posted and paper_values_of(identity))
    assert settings.pop(posted.label) == ("official_lifted", "four" if method == "remora" else None)
    assert set(settings.values()) == {("jagged", grouping) for grouping in groupings}


@pytest.mark.parametrize("scale", scales.names())
@pytest.mark.parametrize("number", synthetic.TABLES)
def test_a_table_has_the_cells_of_its_rows_at_a_scale(number, scale):
    cells = study_file.get(f"table{number}").cells(scale)
    lifted = [cell for cell in cells if "method.restart_schedule=official_lifted" in cell.options]
    assert bool(lifted) is (scale == "paper" and number in (1, 3))
