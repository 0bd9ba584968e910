"""A study: rows, columns, what is searched, seeds, the reference row. The paper's tables and figures are studies too.

A study speaks of cells. What fills a cell at a scale is the business of `study.cells`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .. import tasks
from ..errors import ConfigError
from ..paper import Cell, published
from ..spec.arguments import argument
from ..spec.run_config import TaskSettings

CURVES, RATES, COST, SPECTRUM, RANK = "curves", "rates", "cost", "spectrum", "rank"
FIGURES = (CURVES, RATES, COST, SPECTRUM, RANK)  # what may be drawn of a study
REFERENCE_METHOD = "lora"  # with what a study compares that names no reference, where the method is in the study
OF_A_CELL = ("task", "method", "method.operator", "model")  # the settings by which `Cell` has parts of its own
Search = tuple[tuple[str, tuple[Any, ...]], ...]
TRAINING_LOSS = "loss"  # the curve that every run that trains has


@dataclass(frozen=True)
class Column:
    """A column: a metric of a task, at the end (`at` None) or after a fraction of the training.

    Attributes:
        settings: Arguments of run.py by name, for the cells of this column.
        rank: The paper's rank of the cells of this column; None: that of the row.
        scales: The scales at which the study has the column; empty: all.
        ours: Whether the column is left out where no run has a value for it.
        paper_model: The model that the paper measured in this column; empty: that of the task.
    """

    name: str
    label: str
    metric: str
    settings: dict[str, Any] = field(hash=False)
    at: float | None = None
    rank: int | None = None
    scales: tuple[str, ...] = ()
    ours: bool = False
    paper_model: str = ""

    @property
    def task(self) -> str:
        """The name of the task whose metric the column shows."""
        return str(self.settings["task"])

    @property
    def info(self) -> tasks.Metric:
        """What the task declares about the metric; of a metric that it does not declare, the name."""
        try:
            return tasks.metric(self.task, self.metric)
        except KeyError:
            return tasks.Metric(self.metric, self.metric, unit="")


@dataclass(frozen=True)
class Row:
    """A row: a method with its settings, at one rank.

    Attributes:
        family: The name of the row in the study's file: rows that differ only in their rank share it.
        settings: Arguments of run.py by name, for the cells of this row.
        rank: A rank of the paper; None where the row has none, or where `own_rank` is given.
        own_rank: A rank that the study chooses itself.
        scales: The scales at which the study has the row; empty: all.
        search: (setting, candidates) of what is searched for this row, in place of, or beside, the study's search.
        paper_values: Names of columns -> the paper's values.
        in_paper: Whether the paper has the row.
        points: The points of the paper's curve, (step of the paper, value).
    """

    label: str
    family: str
    settings: dict[str, Any] = field(hash=False)
    rank: int | None = None
    own_rank: int | None = None
    scales: tuple[str, ...] = ()
    search: Search = ()
    paper_values: dict[str, float | None] = field(default_factory=dict, hash=False)
    in_paper: bool = False
    points: tuple[tuple[int, float], ...] = ()

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.settings["method"])

    @property
    def operator(self) -> str | None:
        """The operator that the row fixes, if it fixes one."""
        return self.settings.get("method.operator")

    @property
    def any_rank(self) -> tuple[int | None, int | None]:
        """What two rows at the same rank have in common."""
        return self.rank, self.own_rank


@dataclass(frozen=True)
class Study:
    """Rows and columns, with what fills them.

    Attributes:
        name: The name of the study's file; a table or figure of the paper has the name of its numbers in paper.json.
        scale: The only scale of the study; empty: any.
        search: (setting, candidates) of what the study searches in place of, or beside, the protocol.
        seeds: The seeds at the selected rate; the search uses the first.
        references: The families of the rows with which the other rows are compared. The marks of a table are those of
            the comparison with the first.
        curve: The metric whose curves over the training are drawn.
        figures: What is drawn: some of FIGURES.
        notes: What stands below the table.
        file: What the file of the study holds.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    scale: str = ""
    search: Search = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    references: tuple[str, ...] = ()
    curve: str = TRAINING_LOSS
    figures: tuple[str, ...] = (CURVES, RATES, COST)
    notes: tuple[str, ...] = ()
    file: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def heading(self) -> str:
        """The title, with the number of a table of the paper before it: `Table 2: ...`."""
        name = re.fullmatch(r"table(\d+)", self.name)
        return f"Table {name[1]}: {self.title}" if name else self.title

    @property
    def is_of_paper(self) -> bool:
        """Whether the study is a table or a figure of the paper."""
        return published.is_study(self.name)

    @property
    def has_table(self) -> bool:
        """Whether the study is shown as a table; a figure of the paper is not."""
        return not re.fullmatch(r"figure\d+", self.name)

    @property
    def tasks(self) -> list[str]:
        """The tasks of the columns."""
        return list(dict.fromkeys(column.task for column in self.columns))

    def has_scale(self, scale: str) -> bool:
        """Whether the study can be run at a scale."""
        return self.scale in ("", scale)

    def check_scales(self, scales: Sequence[str]) -> None:
        """Check that a study can be run at one of the scales, where some are named.

        Raises:
            ConfigError: The study is for another scale.
        """
        if scales and not any(map(self.has_scale, scales)):
            raise ConfigError(
                f"--scale {' --scale '.join(scales)}: study {self.name} is for the scale {self.scale} only"
            )

    def at(self, scale: str) -> Study:
        """The study with the rows and columns that it has at a scale."""
        return replace(
            self,
            columns=tuple(c for c in self.columns if scale in (c.scales or (scale,))),
            rows=tuple(r for r in self.rows if scale in (r.scales or (scale,))),
        )

    def cell(self, row: Row, column: Column) -> Cell:
        """The configuration that fills the place of a row and a column."""
        settings = column.settings | row.settings
        fixed = {name: settings.pop(name, None) for name in OF_A_CELL}
        own_rank = () if row.own_rank is None else (argument("method.rank", row.own_rank),)
        return Cell(
            fixed["task"],
            fixed["method"],
            column.rank if column.rank is not None else row.rank,
            fixed["method.operator"],
            fixed["model"],
            (*own_rank, *(argument(name, value) for name, value in settings.items())),
            tuple((dict(self.search) | dict(row.search)).items()),
        )

    def cells(self, scale: str) -> list[Cell]:
        """The different cells of the study at a scale, row by row; none at a scale that is not the study's."""
        if not self.has_scale(scale):
            return []
        here = self.at(scale)
        return list(dict.fromkeys(here.cell(row, column) for row in here.rows for column in here.columns))

    def rows_of(self, family: str) -> list[Row]:
        """The rows of a family, rank by rank."""
        return [row for row in self.rows if row.family == family]

    def references_of(self, row: Row) -> list[Row]:
        """The rows with which a row is compared: each reference at the same rank.

        Where the row or the reference has no rank, the only row of the reference; none where the reference has several.
        A reference is compared with the references before it alone, so that no pair is compared twice.
        """
        place = self.references.index(row.family) if row.family in self.references else None
        found = []
        for family in self.references[:place]:
            rows = self.rows_of(family)
            same = [r for r in rows if r.any_rank == row.any_rank]
            without_rank = any(r.any_rank == (None, None) for r in (row, *rows))
            found += same or (rows if without_rank and len(rows) == 1 else [])
        return found


def metric_columns(task_settings: TaskSettings, settings: dict[str, Any]) -> tuple[Column, ...]:
    """A column for each metric of a task, the headline first; shown where a run has a value for it.

    Args:
        task_settings: The settings of the task, on which its metrics may depend.
        settings: Arguments of run.py by name, for the cells of the columns.
    """
    task = tasks.get(task_settings.name)
    names = dict.fromkeys([*task.headlines, *(metric.name for metric in task.metrics_of(task_settings))])
    return tuple(Column(name, task.metric(name).label, name, settings, ours=True) for name in names)


def published_in(study: Study) -> Study:
    """The study with the numbers that the paper has for it."""
    rows, curves = published.rows(study.name), published.curves(study.name)
    first = study.columns[0] if study.columns else None
    if first is None or not (rows or curves):
        return study
    filled = []
    for row in study.rows:
        # Columns that fix a rank have another cell each; the row of the paper is known by the row's own settings.
        cell = study.cell(row, replace(first, rank=row.rank))
        values = next((r.values for r in rows if r.is_of(cell)), None)
        plain = not cell.options and cell.operator is None
        points = next((c.points for c in curves if plain and (c.method, c.rank) == (cell.method, cell.rank)), ())
        filled.append(replace(row, paper_values=values or {}, in_paper=values is not None, points=points))
    return replace(study, rows=tuple(filled), notes=(*published.notes(study.name), *study.notes))
