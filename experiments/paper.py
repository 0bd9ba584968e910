"""The published numbers, and which configuration fills which cell.

A number of the paper is only ever read from `results/paper/paper.json`. A `Cell` speaks of the paper's own ranks (8 and
256, 128 for pretraining); what they are at another scale is the business of `aggregate.protocol`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parent.parent / "results" / "paper" / "paper.json"
LOW, HIGH, PRETRAINING = 8, 256, 128  # the paper's ranks
SCALES = ("smoke", "laptop", "workstation", "paper")

METHODS = {
    "none": "base model, untrained",
    "fft": "FFT",
    "lora": "LoRA",
    "lora_plus": "LoRA+",
    "relora": "ReLoRA",
    "asylora": "AsyLoRA",
    "dora": "DoRA",
    "mora": "MoRA",
    "remora": "ReMoRA",
}


@dataclass(frozen=True)
class Metric:
    """How a metric is called, and which end of it is good."""

    label: str
    unit: str
    higher_is_better: bool


def _percent(label: str) -> Metric:
    return Metric(label, "%", True)


METRICS = {
    "char_accuracy": _percent("character accuracy"),
    "mmlu_0shot": _percent("MMLU 0-shot"),
    "mmlu_5shot": _percent("MMLU 5-shot"),
    "gsm8k": _percent("GSM8K"),
    "math": _percent("MATH"),
    "pubmedqa": _percent("PubMedQA"),
    "usmle": _percent("USMLE"),
    "bio_mmlu": _percent("BioMMLU"),
    "rct": _percent("RCT"),
    "biomed_avg": _percent("BioMed average"),
    "convfinqa": _percent("ConvFinQA"),
    "fiqa_sa": _percent("FiQA SA"),
    "headline": _percent("Headline"),
    "ner": _percent("NER"),
    "fpb": _percent("FPB"),
    "finance_avg": _percent("Finance average"),
    "perplexity": Metric("perplexity", "", False),
    "answer_bits_per_byte": Metric("bits per byte of held-out answers", "", False),
    "heldout_perplexity": Metric("held-out perplexity", "", False),
    "general_loss": Metric("loss on general text", "", False),
    "mmlu_subset_5shot": _percent("MMLU subset 5-shot"),
    "gsm8k_subset": _percent("GSM8K subset"),
    "pubmedqa_yesno": _percent("PubMedQA yes/no"),
    "medqa_subset": _percent("MedQA subset"),
    "bio_mmlu_subset": _percent("BioMMLU subset"),
    "reuters_topic": _percent("Reuters topic"),
    "econ_mmlu_subset": _percent("economic MMLU subset"),
}
# What smaller scales measure in place of the paper's metrics, under names of their own; the first decides claims.
STAND_INS = {
    "instruct": ("answer_bits_per_byte", "mmlu_subset_5shot"),
    "math": ("answer_bits_per_byte", "gsm8k_subset"),
    "biomed": ("heldout_perplexity",),
    "finance": ("heldout_perplexity", "reuters_topic"),
}
DETAILS = {
    "biomed": ("heldout_perplexity", "pubmedqa_yesno", "medqa_subset", "bio_mmlu_subset", "general_loss"),
    "finance": ("heldout_perplexity", "reuters_topic", "econ_mmlu_subset", "general_loss"),
}


@dataclass(frozen=True)
class Cell:
    """A configuration that fills a cell of the paper, at whatever scale; None is the protocol's own choice."""

    task: str
    method: str
    rank: int | None = None
    operator: str | None = None
    model: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column: a metric of a task, at the end (`at` None) or after a fraction of the training."""

    name: str
    label: str
    task: str
    metric: str
    at: float | None = None
    rank: int | None = None
    model: str | None = None
    only_scale: str | None = None
    stand_in: bool = False


@dataclass(frozen=True)
class Row:
    """A row: a method; `published` maps names of columns to the paper's values."""

    label: str
    method: str
    rank: int | None = None
    operator: str | None = None
    options: tuple[str, ...] = ()
    published: dict[str, float | None] = field(default_factory=dict, hash=False)
    in_paper: bool = True


@dataclass(frozen=True)
class Table:
    """A table of the paper, with the rows and columns that we add to it."""

    number: int
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()

    def cell(self, row: Row, column: Column) -> Cell:
        rank = column.rank if column.rank is not None else row.rank
        return Cell(column.task, row.method, rank, row.operator, column.model, row.options)


@cache
def published() -> dict[str, Any]:
    """The content of paper.json."""
    return json.loads(PUBLISHED.read_text())


SINGLE_RUNS = "The paper's values are single runs: it gives no seeds and no deviations."


def _label(method: str, rank: int | None) -> str:
    return METHODS[method] if rank is None else f"{METHODS[method]}, r = {rank}"


def _method_rows(number: int, columns: tuple[Column, ...], renamed: dict[str, str] | None = None) -> tuple[Row, ...]:
    """The published rows; `renamed` maps our names of columns to theirs, where they differ."""
    names = {c.name: (renamed or {}).get(c.name, c.name) for c in columns}
    return tuple(
        Row(
            _label(row["method"], row["rank"]),
            row["method"],
            row["rank"],
            published={ours: row["values"].get(theirs) for ours, theirs in names.items()},
        )
        for row in published()[f"table{number}"]["rows"]
    )


BASE = Row(METHODS["none"], "none", in_paper=False)


def _metrics(task: str, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, METRICS[name].label, task, name) for name in names)


def _ours(task: str, *names: str, rank: int | None = None, suffix: str = "") -> tuple[Column, ...]:
    return tuple(
        Column(f"{task}_{n}{suffix}", f"{METRICS[n].label}{suffix} ({task}, ours)", task, n, rank=rank, stand_in=True)
        for n in names
    )


def _table1() -> Table:
    columns = (
        *_metrics("instruct", "mmlu_0shot", "mmlu_5shot"),
        *_metrics("math", "gsm8k", "math"),
        *_metrics("biomed", "biomed_avg"),
        *_metrics("finance", "finance_avg"),
    )
    rows = (BASE, *_method_rows(1, columns))
    for task, names in STAND_INS.items():
        columns += _ours(task, *names)
    return Table(1, published()["table1"]["title"], columns, rows, (SINGLE_RUNS, *arithmetic_notes()))


def _table2() -> Table:
    steps = published()["table2"]["columns"]
    columns = tuple(Column(s, f"step {s} ({int(s) // 10} %)", "uuid", "char_accuracy", at=int(s) / 1000) for s in steps)
    rows = _method_rows(2, columns)
    columns += (Column("final", "end, all pairs", "uuid", "char_accuracy"),)
    return Table(
        2,
        published()["table2"]["title"],
        columns,
        rows,
        (SINGLE_RUNS, "The paper trains for 1,000 steps; the columns are the same parts of ours."),
    )


def _table3() -> Table:
    columns = (
        Column("250m", "250M", "pretrain", "perplexity"),
        Column("1.3b", "1.3B", "pretrain", "perplexity", model="llama-1.3b", only_scale="paper"),
    )
    cycle = Row("ReMoRA, four groupings", "remora", PRETRAINING, None, ("method.groupings=four",), in_paper=False)
    rows = (*_method_rows(3, columns), cycle, Row("full training", "fft", in_paper=False))
    return Table(
        3, published()["table3"]["title"], columns, rows, (SINGLE_RUNS, "The paper has no row of full training.")
    )


def _table4() -> Table:
    ranks = {"r8": LOW, "r256": HIGH}
    columns = tuple(Column(n, f"GSM8K, r = {r}", "math", "gsm8k", rank=r) for n, r in ranks.items())
    rows = tuple(
        Row(f"{row['operator']} (Eq. {row['equation']})", "mora", None, row["operator"], published=row["values"])
        for row in published()["table4"]["rows"]
    )
    folded = tuple(
        Row(f"{name}, no dead inputs", "mora", None, name, ("method.surplus=fold",), in_paper=False)
        for name in ("decouple", "rotation")
    )
    columns += tuple(
        Column(f"uuid_{n}", f"UUID accuracy, r = {r}", "uuid", "char_accuracy", rank=r) for n, r in ranks.items()
    )
    for rank in ranks.values():
        columns += _ours("math", *STAND_INS["math"], rank=rank, suffix=f", r = {rank}")
    return Table(4, published()["table4"]["title"], columns, (*rows, *folded), (SINGLE_RUNS,))


def _detail(number: int, task: str, *names: str) -> Table:
    average = f"{task}_avg"
    columns = _metrics(task, *names, average)
    rows = (BASE, *_method_rows(number, columns, {average: "avg"}))
    columns += _ours(task, *DETAILS[task])
    return Table(number, published()[f"table{number}"]["title"], columns, rows, (SINGLE_RUNS, *arithmetic_notes()))


TABLES = (1, 2, 3, 4, 6, 7)


@cache
def table(number: int) -> Table:
    """One table of the paper.

    Raises:
        ValueError: The paper has no such table, or it holds no results (Table 5: hyperparameters).
    """
    if number == 6:
        return _detail(6, "biomed", "pubmedqa", "usmle", "bio_mmlu", "rct")
    if number == 7:
        return _detail(7, "finance", "convfinqa", "fiqa_sa", "headline", "ner", "fpb")
    made = {1: _table1, 2: _table2, 3: _table3, 4: _table4}
    if number not in made:
        raise ValueError(f"no table {number} with results; allowed: {', '.join(map(str, TABLES))}")
    return made[number]()


def arithmetic_notes() -> tuple[str, ...]:
    """Where the paper's printed averages disagree with each other or with their own columns, found by computing."""
    notes = []
    for number, column in ((6, "biomed_avg"), (7, "finance_avg")):
        summary = {(r["method"], r["rank"]): r["values"][column] for r in published()["table1"]["rows"]}
        for row in published()[f"table{number}"]["rows"]:
            parts = [v for name, v in row["values"].items() if name != "avg"]
            mean, here = sum(parts) / len(parts), row["values"]["avg"]
            there = summary[row["method"], row["rank"]]
            if abs(mean - here) > 0.05 + 1e-9 or here != there:
                printed = f"{here} in Table {number}" + (f", {there} in Table 1" if here != there else "")
                notes.append(
                    f"{_label(row['method'], row['rank'])}, {METRICS[column].label}: the paper prints {printed}; "
                    f"its columns average {mean:.2f}."
                )
    return tuple(notes)


@dataclass(frozen=True)
class Series:
    """A curve of a figure: whose it is, and the points that were read off the paper's plot (paper's step, value)."""

    label: str
    cell: Cell
    points: tuple[tuple[int, float], ...] = ()


PAPER_STEPS = 1000  # of the UUID experiment: what turns a step of Figures 2 and 3 into a fraction of the training
FIGURES = (1, 2, 3, 4, 5)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _uuid(name: str) -> tuple[str, Cell]:
    method, _, rank = name.partition("_r")
    number = int(rank) if rank else None
    return _label(method, number), Cell("uuid", method, number)


def figure(number: int) -> tuple[Series, ...]:
    """The curves of a figure. 1: Table 2 as curves; 2, 3: UUID loss; 4: pretraining loss; 5: spectra after pretraining.

    Raises:
        ValueError: There is no such figure.
    """
    if number == 1:
        return tuple(
            Series(
                r.label,
                Cell("uuid", r.method, r.rank),
                tuple((int(s), v) for s, v in r.published.items() if v is not None),
            )
            for r in table(2).rows
        )
    if number in (2, 3):
        data = published()[f"figure{number}"]
        return tuple(
            Series(*_uuid(name), tuple((s, v) for s, v in zip(data["steps"], values, strict=True) if v is not None))
            for name, values in data["series"].items()
        )
    if number in (4, 5):
        made = table(3)
        # Full training has no adapters whose spectrum could be compared.
        rows = [r for r in made.rows if number == 4 or r.rank]
        return tuple(Series(r.label, made.cell(r, made.columns[0])) for r in rows)
    raise ValueError(f"no figure {number} with curves; allowed: {', '.join(map(str, FIGURES))}")


def beside(cell: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What the paper prints for the method, rank and operator of a run: (table and column, value).

    Args:
        cell: The `cell` of a record.
        protocol: The protocol of its task and scale: `ranks` says which of the paper's ranks a rank stands for.
    """
    ranks = protocol.get("ranks") or {}
    stands_for = {ranks.get("low"): LOW, ranks.get("high"): HIGH, None: None}
    rank = stands_for.get(cell["rank"], 0)
    if cell["task"] == "pretrain" and cell["rank"] == protocol.get("rank"):
        rank = PRETRAINING if cell["rank"] else None
    found = []
    for number in TABLES:
        made = table(number)
        for row in made.rows:
            for column in made.columns:
                value, wanted = row.published.get(column.name), made.cell(row, column)
                if (
                    value is not None
                    and (wanted.task, wanted.method, wanted.rank) == (cell["task"], cell["method"], rank)
                    and wanted.operator in (None, cell["operator"])
                    and (cell["scale"] != "paper" or (wanted.model or protocol.get("model")) == cell["model"])
                ):
                    found.append((f"Table {number}, {column.label}", value))
    return found


def printed(cell: Cell, metric: str) -> float | None:
    """The final metric that the paper prints for a cell; None where it prints none."""
    for number in TABLES:
        made = table(number)
        for row in made.rows:
            for column in made.columns:
                if column.metric == metric and column.at is None and made.cell(row, column) == cell:
                    return row.published.get(column.name)
    return None


def figure_cells(number: int) -> list[Cell]:
    return [s.cell for s in figure(number)]


def all_cells(scale: str) -> list[Cell]:
    """The different cells of every table and figure."""
    cells = [c for number in TABLES for c in table_cells(number, scale)]
    return list(dict.fromkeys(cells + [c for number in FIGURES for c in figure_cells(number)]))


def table_cells(number: int, scale: str) -> list[Cell]:
    """The different cells of a table, row by row."""
    made = table(number)
    cells = [
        made.cell(row, column) for row in made.rows for column in made.columns if column.only_scale in (None, scale)
    ]
    return list(dict.fromkeys(cells))
