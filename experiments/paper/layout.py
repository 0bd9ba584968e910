"""Tables 1, 2, 3, 4, 6 and 7: rows, columns, published values, and the configuration that fills each place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

from .. import tasks
from ..spec import methods
from .names import HIGH, LOW, PRETRAINING, paper_json

PAPER_MODELS = {"llama-1.3b": "LLaMA 1.3B"}  # of columns whose model is not the task's


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
    """A column: a metric of a task, at the end (`at` None) or after a fraction of the training.

    `ours` marks a column that the paper does not have, and that is left out where no run has a value for it.
    """

    name: str
    label: str
    task: str
    metric: str
    at: float | None = None
    rank: int | None = None
    model: str | None = None
    only_scale: str | None = None
    ours: bool = False

    @property
    def paper_model(self) -> str:
        """The model that the paper measured in this column."""
        return PAPER_MODELS.get(self.model or "") or tasks.get(self.task).paper_model


@dataclass(frozen=True)
class Row:
    """A row: a method; `paper_values` maps names of columns to the paper's values.

    A row with an `only_scale` stands in the table at that scale alone, and in no figure.
    """

    label: str
    method: str
    rank: int | None = None
    operator: str | None = None
    options: tuple[str, ...] = ()
    paper_values: dict[str, float | None] = field(default_factory=dict, hash=False)
    in_paper: bool = True
    only_scale: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper, with the rows and columns that we add to it."""

    number: int
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()

    def at(self, scale: str) -> Table:
        """The table with the rows and columns that it has at a scale."""
        return replace(
            self,
            columns=tuple(c for c in self.columns if c.only_scale in (None, scale)),
            rows=tuple(r for r in self.rows if r.only_scale in (None, scale)),
        )

    def cell(self, row: Row, column: Column) -> Cell:
        """The configuration that fills the place of a row and a column."""
        rank = column.rank if column.rank is not None else row.rank
        return Cell(column.task, row.method, rank, row.operator, column.model, row.options)


ALPHA = (
    "LoRA's scale, alpha / r, is the paper's: 2 at r = 8, and 0.5 at r = 128 and 256. What the lower one costs LoRA is "
    "a row of its own, alpha = 2 r. MoRA has no alpha; its scale is 1."
)

SINGLE_RUNS = "The paper's values are single runs: it gives no seeds and no deviations."


def label(method: str, rank: int | None) -> str:
    """`MoRA, r = 8`."""
    return methods.label(method) if rank is None else f"{methods.label(method)}, r = {rank}"


def alpha_2r(rank: int) -> tuple[str, ...]:
    """The setting with which LoRA has alpha = 2 r at the rank that stands for a rank of the paper."""
    return (f"protocol.lora_scale.r{rank}=2",)


def as_posted(method: str, rank: int) -> Row:
    """The row of a method with restarts in the settings of the command that the authors posted, at paper scale.

    The command leaves the schedule and the groupings at the defaults of the authors' code: each restart starts a new
    schedule at the current rate, and ReMoRA goes through four groupings. The paper's text describes the other rows: the
    jagged schedule, and two groupings.
    """
    groupings = ("method.groupings=four",) if method == "remora" else ()
    return Row(
        ", ".join([label(method, rank), "lifted schedule", *(["four groupings"] if groupings else [])]),
        method,
        rank,
        options=("method.restart_schedule=official_lifted", *groupings),
        in_paper=False,
        only_scale="paper",
    )


def lora_at_one_scale(rank: int) -> Row:
    """The row of LoRA with alpha = 2 r at the rank that stands for `rank` of the paper."""
    return Row(f"{label('lora', rank)}, alpha = 2 r", "lora", rank, options=alpha_2r(rank), in_paper=False)


PROJECTIONS_ALONE = Row(
    "FFT of the projections alone",
    "fft",
    options=("method.target_modules=${protocol.target_modules}",),
    in_paper=False,
)


def _method_rows(number: int, columns: tuple[Column, ...], renamed: dict[str, str] | None = None) -> tuple[Row, ...]:
    """The published rows.

    Args:
        number: The table.
        columns: The columns of the rows.
        renamed: Our name of a column -> the name in `paper.json`, where the two differ.
    """
    published = {c.name: (renamed or {}).get(c.name, c.name) for c in columns}
    return tuple(
        Row(
            label(row["method"], row["rank"]),
            row["method"],
            row["rank"],
            paper_values={name: row["values"].get(in_paper) for name, in_paper in published.items()},
        )
        for row in paper_json()[f"table{number}"]["rows"]
    )


BASE = Row(methods.label("none"), "none", in_paper=False)


def _metrics(task: str, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, tasks.metric(task, name).label, task, name) for name in names)


def _ours(task: str, *names: str, rank: int | None = None, suffix: str = "") -> tuple[Column, ...]:
    return tuple(
        Column(
            f"{task}_{name}{suffix}",
            f"{tasks.metric(task, name).label}{suffix} ({task}, ours)",
            task,
            name,
            rank=rank,
            ours=True,
        )
        for name in names
    )


def _table1() -> Table:
    columns = (
        *_metrics("instruct", "mmlu_0shot", "mmlu_5shot"),
        *_metrics("math", "gsm8k", "math"),
        *_metrics("biomed", "biomed_avg"),
        *_metrics("finance", "finance_avg"),
    )
    rows = (BASE, *_method_rows(1, columns), as_posted("relora", LOW), as_posted("relora", HIGH))
    for task in dict.fromkeys(column.task for column in columns):
        columns += _ours(task, *tasks.get(task).stand_ins)
    return Table(1, paper_json()["table1"]["title"], columns, rows, (SINGLE_RUNS, *arithmetic_notes(6, 7)))


def _table2() -> Table:
    steps = paper_json()["table2"]["columns"]
    columns = tuple(Column(s, f"step {s} ({int(s) // 10} %)", "uuid", "char_accuracy", at=int(s) / 1000) for s in steps)
    rows = (*_method_rows(2, columns), PROJECTIONS_ALONE, lora_at_one_scale(HIGH))
    columns += (
        Column("final", "end, all pairs (ours)", "uuid", "char_accuracy", ours=True),
        Column("value_loss", "loss on values at the end, nats a token (ours)", "uuid", "value_loss", ours=True),
    )
    return Table(
        2,
        paper_json()["table2"]["title"],
        columns,
        rows,
        (
            SINGLE_RUNS,
            "The paper trains for 1,000 steps; the columns are the same parts of ours.",
            ALPHA,
            "FFT trains the embeddings, the head and the norms too, and the adapters leave them frozen; FFT of the "
            "projections alone trains the same layers as the adapters.",
        ),
    )


def _table3() -> Table:
    columns = (
        Column("250m", "250M", "pretrain", "perplexity"),
        Column("1.3b", "1.3B", "pretrain", "perplexity", model="llama-1.3b", only_scale="paper"),
    )
    cycle = Row("ReMoRA, four groupings", "remora", PRETRAINING, None, ("method.groupings=four",), in_paper=False)
    rows = (
        *_method_rows(3, columns),
        lora_at_one_scale(PRETRAINING),
        cycle,
        as_posted("relora", PRETRAINING),
        as_posted("remora", PRETRAINING),
        Row("full training", "fft", in_paper=False),
        PROJECTIONS_ALONE,
    )
    return Table(
        3,
        paper_json()["table3"]["title"],
        columns,
        rows,
        (
            SINGLE_RUNS,
            "The paper has no row of full training.",
            ALPHA,
            "In pretraining, the embeddings, the head and the norms train beside the adapters. Only FFT of the "
            "projections alone leaves them as they were drawn.",
        ),
    )


def _table4() -> Table:
    ranks = {"r8": LOW, "r256": HIGH}
    columns = tuple(Column(n, f"GSM8K, r = {r}", "math", "gsm8k", rank=r) for n, r in ranks.items())
    rows = tuple(
        Row(f"{row['operator']} (Eq. {row['equation']})", "mora", None, row["operator"], paper_values=row["values"])
        for row in paper_json()["table4"]["rows"]
    )
    folded = tuple(
        Row(f"{name}, no dead inputs", "mora", None, name, ("method.surplus=fold",), in_paper=False)
        for name in ("decouple", "rotation")
    )
    columns += tuple(
        Column(f"uuid_{n}", f"UUID accuracy, r = {r}", "uuid", "char_accuracy", rank=r) for n, r in ranks.items()
    )
    for rank in ranks.values():
        columns += _ours("math", *tasks.get("math").stand_ins, rank=rank, suffix=f", r = {rank}")
    return Table(4, paper_json()["table4"]["title"], columns, (*rows, *folded), (SINGLE_RUNS,))


def _detail(number: int, task: str, *names: str) -> Table:
    average = tasks.get(task).headline
    columns = _metrics(task, *names, average)
    rows = (BASE, *_method_rows(number, columns, {average: "avg"}))
    columns += _ours(task, *(m.name for m in tasks.get(task).metrics if m.name not in (*names, average)))
    return Table(
        number, paper_json()[f"table{number}"]["title"], columns, rows, (SINGLE_RUNS, *arithmetic_notes(number))
    )


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
    builders = {1: _table1, 2: _table2, 3: _table3, 4: _table4}
    if number not in builders:
        raise ValueError(f"no table {number} with results; allowed: {', '.join(map(str, TABLES))}")
    return builders[number]()


DETAILS_OF = {6: "biomed", 7: "finance"}


def arithmetic_notes(*numbers: int) -> tuple[str, ...]:
    """Where printed averages of Tables 6 and 7 disagree with Table 1 or their own columns, found by computing."""
    notes = []
    for number in numbers:
        task = tasks.get(DETAILS_OF[number])
        column = task.headline
        summary = {(r["method"], r["rank"]): r["values"][column] for r in paper_json()["table1"]["rows"]}
        for row in paper_json()[f"table{number}"]["rows"]:
            parts = [v for name, v in row["values"].items() if name != "avg"]
            mean, here = sum(parts) / len(parts), row["values"]["avg"]
            there = summary[row["method"], row["rank"]]
            if abs(mean - here) > 0.05 + 1e-9 or here != there:
                printed = f"{here} in Table {number}" + (f", {there} in Table 1" if here != there else "")
                notes.append(
                    f"{label(row['method'], row['rank'])}, {task.metric(column).label}: the paper prints {printed}; "
                    f"its columns average {mean:.2f}."
                )
    return tuple(notes)


def table_cells(number: int, scale: str) -> list[Cell]:
    """The different cells of a table, row by row."""
    layout = table(number).at(scale)
    return list(dict.fromkeys(layout.cell(row, column) for row in layout.rows for column in layout.columns))
