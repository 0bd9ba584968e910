"""What the paper prints for a run: matched by the whole cell."""

from __future__ import annotations

import pytest

from experiments import paper
from experiments.identity import identity_of
from experiments.study.cells import paper_values_of, tables_of

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
