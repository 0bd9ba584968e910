"""The table of a study at one scale: the paper's value and ours, entry by entry; and as a pandas frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import tasks
from ..paper import Cell
from ..store.records import Record
from ..study import measures, question_samples, statistics
from ..study.fill import FilledCell, Results
from ..study.layout import Column, Row, Study
from ..study.statistics import UNDECIDED, Interval, Summary

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Comparison:
    """The difference of an entry from that of a reference, at the same rank where there are several.

    Attributes:
        reference: The label of the reference's row.
        interval: Of entry minus reference, in the metric's unit.
        verdict: "better", "worse" or "undecided".
        reasons: Why the verdict is undecided, and where more seeds would decide, how many; empty for other verdicts.
        searched: The labels of the two rows, without those of which nothing is trained.
        marked: Whether the table marks the verdict: the reference is the first of the study.
    """

    reference: str
    interval: Interval
    verdict: str
    reasons: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()
    marked: bool = True


@dataclass(frozen=True)
class TableEntry:
    """The paper's value and ours, at one row and column of a table.

    Attributes:
        values: Seed -> our value, of the finished runs at the selected rate.
        paper_value: The paper's value; None where the paper has no value.
        steps: The steps at which a curve was read; empty for final metrics.
        floors: Seed -> the value of the best answer that knows nothing of the question, for the seeds of `values` where
            it is known.
        misfit: Why the entry stays empty: its method cannot spend the budget on the model. Empty for other entries.
        best: Whether the mean is the best of its column, and above its floor. Only `comparison` says whether a
            difference is certain.
    """

    row: Row
    column: Column
    filled: FilledCell
    values: dict[int, float]
    paper_value: float | None
    steps: tuple[int, ...] = ()
    floors: dict[int, float] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    misfit: str = ""
    best: bool = False

    @property
    def summary(self) -> Summary | None:
        """Mean and deviation over the seeds; None where no run has the metric."""
        return statistics.summary(list(self.values.values()))

    @property
    def comparison(self) -> Comparison | None:
        """The comparison with the first reference of the study, whose verdict the table marks."""
        return next((c for c in self.comparisons if c.marked), None)

    @property
    def floor(self) -> float | None:
        """The mean of the floors over the seeds; None where a seed has none."""
        known = self.floors.keys() == self.values.keys() and self.floors
        return sum(self.floors.values()) / len(self.floors) if known else None

    @property
    def at_floor(self) -> bool:
        """Whether the values cannot be told from the floor: nothing is said about two such values, none is the best."""
        if self.floor is None:
            return False
        values, floors = list(self.values.values()), [self.floors[seed] for seed in self.values]
        return statistics.at_floor(values, floors, higher_is_better=self.column.info.higher_is_better)


@dataclass(frozen=True)
class FilledTable:
    """The table of a study: `entries[i][j]` stands in row i and column j."""

    layout: Study
    scale: str
    columns: tuple[Column, ...]
    entries: tuple[tuple[TableEntry, ...], ...]

    def file(self, ending: str) -> str:
        """The path of the file with this ending, such as `.md`, below the folder `tables`."""
        return f"{self.scale}/{self.layout.name}{ending}"

    def has_paper_values(self, column: int) -> bool:
        """Whether the paper has a value in a column. A column without one shows our values only."""
        return any(row[column].paper_value is not None for row in self.entries)

    def details(self) -> list[tuple[str, FilledCell]]:
        """The different cells that have runs, each with the label of the first row that shows the cell.

        A cell stands twice where the learning rate of values during the training has a search of its own.
        """
        cells: dict[tuple[Cell, bool], tuple[str, FilledCell]] = {}
        for row in self.entries:
            for entry in row:
                if entry.filled.runs:
                    cells.setdefault((entry.filled.cell, entry.filled.in_training), (entry.row.label, entry.filled))
        return list(cells.values())

    def commands(self) -> list[tuple[str, str, str]]:
        """(row, columns, command) for every cell that a run can fill and none has. Each command stands once."""
        missing: dict[str, tuple[str, list[str]]] = {}
        for row in self.entries:
            for entry in row:
                if not entry.values and not entry.filled.selected and not entry.misfit:
                    missing.setdefault(entry.filled.command, (entry.row.label, []))[1].append(entry.column.label)
        return [
            (label, "all" if len(columns) == len(self.columns) else ", ".join(columns), command)
            for command, (label, columns) in missing.items()
        ]


def fill(study: Study, results: Results) -> FilledTable:
    """Fill the table of a study from the records of one scale. Columns that have values come first."""
    study = study.at(results.scale)
    have_values = {column: _has_values(study, column, results) for column in study.columns}
    shown = [c for c in study.columns if have_values[c] or not c.ours] or list(study.columns[:1])
    columns = tuple(sorted(shown, key=lambda column: not have_values[column]))
    entries = [[_entry(study, row, column, results) for column in columns] for row in study.rows]
    entries = [[_with_comparisons(study, entry, entries) for entry in row] for row in entries]
    corrected = _corrected(study, entries, len(columns))
    return FilledTable(study, results.scale, columns, _mark_best(corrected, columns))


def values_of(filled: FilledCell, column: Column) -> dict[int, float]:
    """Seed -> value of the column, for the finished runs at the selected rate that have this value."""
    values = {seed: _value(record, column) for seed, record in filled.selected.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _value(record: Record, column: Column) -> float | None:
    if column.at is None:
        return measures.final(record, column.metric)
    return measures.at_fraction(record, column.metric, column.at)


def _has_values(study: Study, column: Column, results: Results) -> bool:
    return any(values_of(_filled(study, row, column, results), column) for row in study.rows)


def _filled(study: Study, row: Row, column: Column, results: Results) -> FilledCell:
    return results.cell(study.cell(row, column), in_training=column.at is not None)


def _entry(study: Study, row: Row, column: Column, results: Results) -> TableEntry:
    filled, misfit = _filled(study, row, column, results), results.misfit(study.cell(row, column))
    steps: set[int] = set()
    if column.at is not None:
        points = (measures.nearest(r, column.metric, column.at) for r in filled.selected.values())
        steps = {point[0] for point in points if point is not None}
    paper_value, values = row.paper_values.get(column.name), values_of(filled, column)
    floors = {seed: measures.floor(filled.selected[seed], column.metric) for seed in values}
    known = {seed: floor for seed, floor in floors.items() if floor is not None}
    return TableEntry(row, column, filled, values, paper_value, tuple(sorted(steps)), known, misfit=misfit)


def _with_comparisons(study: Study, entry: TableEntry, entries: list[list[TableEntry]]) -> TableEntry:
    comparisons = []
    for with_this in study.references_of(entry.row):
        reference = next(e for row in entries for e in row if (e.row, e.column) == (with_this, entry.column))
        if comparison := _comparison(entry, reference):
            marked = with_this.family == study.references[0]
            comparisons.append(dataclasses.replace(comparison, marked=marked))
    return dataclasses.replace(entry, comparisons=tuple(comparisons))


def _comparison(entry: TableEntry, reference: TableEntry) -> Comparison | None:
    interval = statistics.paired(entry.values, reference.values)
    if interval is None:
        return None
    metric = entry.column.info
    sign = 1 if metric.higher_is_better else -1
    both = [[e.values[s] for s in entry.values.keys() & reference.values.keys()] for e in (entry, reference)]
    means = (sum(both[0]) / interval.n, sum(both[1]) / interval.n)
    runs = [*entry.filled.selected.values(), *reference.filled.selected.values()]
    interval, unknown = question_samples.known(interval, metric, means, runs)
    better, worse = (interval.above(0), interval.below(0))[::sign]
    doubts = tuple(f"{e.row.label}: {e.filled.doubt}" for e in (entry, reference) if e.filled.doubt)
    doubts += (unknown,) if unknown else ()
    doubts += ("neither can be told from its floor",) if entry.at_floor and reference.at_floor else ()
    doubts += _doubt_of_selection(entry, reference, interval) if better or worse else ()
    verdict = UNDECIDED if doubts else "better" if better else "worse" if worse else UNDECIDED
    settings = ((e.row.label, e.filled.setting) for e in (entry, reference))
    searched = tuple(label for label, setting in settings if setting and setting.candidates)
    return Comparison(reference.row.label, interval, verdict, doubts, searched)


def _doubt_of_selection(entry: TableEntry, reference: TableEntry, interval: Interval) -> tuple[str, ...]:
    """Whether the sign of a difference would be another one with the rates that are best by the metric itself.

    This is asked of the task's main metric and of its stand-ins: by a metric of what was forgotten, the best rate would
    be one that learns nothing.
    """
    if entry.column.metric not in tasks.get(entry.column.task).headlines:
        return ()
    best, best_reference = best_of_search(entry), best_of_search(reference)
    if best is None or best_reference is None or interval.mean * (best[1] - best_reference[1]) >= 0:
        return ()
    difference = f"{best[1] - best_reference[1]:+.3g}"
    return (f"with the learning rates that are best by this number itself, the difference is {difference}",)


def best_of_search(entry: TableEntry) -> tuple[Record, float] | None:
    """Of the runs that the search of an entry compares, the run with the best value of the column, and this value."""
    found = [(run, v) for run in entry.filled.searched_runs if (v := _value(run, entry.column)) is not None]
    sign = 1 if entry.column.info.higher_is_better else -1
    return max(found, key=lambda pair: sign * pair[1], default=None)


def _corrected(study: Study, entries: list[list[TableEntry]], columns: int) -> list[list[TableEntry]]:
    """The entries, with Holm's correction for the number of rows that a column compares with the same reference.

    Rows without runs count too. So a verdict does not change when a further row is run.
    """
    for j in range(columns):
        for family in study.references:
            labels = {row.label for row in study.rows_of(family)}
            tested = [(i, c) for i, row in enumerate(entries) for c in row[j].comparisons if c.reference in labels]
            planned = sum(
                reference.label in labels
                for row in entries
                if not row[j].misfit
                for reference in study.references_of(row[j].row)
            )
            p_values = [1.0 if c.reasons else min(c.interval.p_above(0), c.interval.p_below(0)) for _, c in tested]
            corrected = statistics.holm([*p_values, *[1.0] * (planned - len(tested))])
            for (i, comparison), p in zip(tested, corrected, strict=False):
                judged = _judged(comparison, p < 1 - statistics.LEVEL, planned)
                others = tuple(judged if c is comparison else c for c in entries[i][j].comparisons)
                entries[i][j] = dataclasses.replace(entries[i][j], comparisons=others)
    return entries


def _judged(comparison: Comparison, is_clear: bool, planned: int) -> Comparison:
    """The comparison with its verdict after Holm's correction for `planned` rows, and with all reasons."""
    interval = comparison.interval
    if comparison.verdict != UNDECIDED:
        if is_clear:
            return comparison
        reason = f"not clear enough where {planned} rows are compared (Holm's correction)"
    elif interval.low is None:
        reason = "an interval needs two seeds that both have"
    elif interval.low == interval.high == 0:
        reason = "with each seed both have the same value"
    elif comparison.reasons:
        return comparison
    else:
        reason = "the interval contains zero"
    reasons = [*comparison.reasons, reason]
    if interval.low != interval.high:
        reasons.append(statistics.what_would_decide(interval, compared=planned))
    return dataclasses.replace(comparison, verdict=UNDECIDED, reasons=tuple(reasons))


def _mark_best(entries: list[list[TableEntry]], columns: tuple[Column, ...]) -> tuple[tuple[TableEntry, ...], ...]:
    best: list[float | None] = []
    for j, column in enumerate(columns):
        means = [e.summary.mean for row in entries if (e := row[j]).summary and not e.at_floor]
        pick = max if column.info.higher_is_better else min
        best.append(pick(means) if len(means) > 1 else None)
    return tuple(
        tuple(
            dataclasses.replace(e, best=(s := e.summary) is not None and s.mean == best[j] and not e.at_floor)
            for j, e in enumerate(row)
        )
        for row in entries
    )


def mean_cost(records: Iterable[Record], name: str) -> float | None:
    """The mean over runs of a cost, in the unit of the record's `cost.<name>`. None where no run has this cost."""
    summary = statistics.summary([v for r in records if (v := measures.number(r.cost.get(name))) is not None])
    return summary.mean if summary else None


def cost_cells(row: tuple[TableEntry, ...]) -> list[FilledCell]:
    """The different cells behind the values of a row, whose costs a table shows; else the row's first cell."""
    cells: dict[Cell, FilledCell] = {}
    for entry in row:
        if entry.values:
            cells.setdefault(entry.filled.cell, entry.filled)
    return list(cells.values()) or [row[0].filled]


UNSPENT = 0.9  # a method that trains a smaller part of its budget is marked, and one that trains more than all of it


def spent_share(records: Iterable[Record]) -> float | None:
    """The part of the budget that the runs train: of the parameters of LoRA at the rank. None where it is not known.

    It is not known either where everything but the adapted weights trains beside the adapters.
    """
    records = [r for r in records if not r.config.get("method", {}).get("train_rest")]
    trainable, budget = mean_cost(records, "trainable_parameters"), mean_cost(records, "budget_parameters")
    return trainable / budget if trainable is not None and budget else None


COSTS = ("trainable_parameters", "seconds", "peak_memory_bytes")


def frame(table: FilledTable) -> pandas.DataFrame:
    """A line for each entry: its row and column, the paper's value, our mean, deviation and n, the rates, the cost."""
    import pandas

    return pandas.DataFrame([_line(table, e) for row in table.entries for e in row])


def _line(table: FilledTable, entry: TableEntry) -> dict[str, Any]:
    filled, summary, selection = entry.filled, entry.summary, entry.filled.selection
    setting, comparison = filled.setting, entry.comparison
    runs = filled.at_selected
    return {
        "table": table.layout.name.removeprefix("table"),
        "scale": table.scale,
        "row": entry.row.label,
        "column": entry.column.label,
        "method": entry.row.method,
        "operator": setting.operator if setting else entry.row.operator,
        "paper_rank": filled.cell.rank,
        "rank": setting.rank if setting else None,
        "model": setting.model if setting else None,
        "task": entry.column.task,
        "metric": entry.column.metric,
        "paper": entry.paper_value,
        "mean": summary.mean if summary else None,
        "sd": summary.sd if summary else None,
        "n": summary.n if summary else 0,
        "floor": entry.floor,
        "diverged": filled.count_diverged(runs),
        "failed": sum(r.status == "failed" for r in runs),
        "steps": " ".join(map(str, entry.steps)),
        "learning_rate": selection.rate if selection else None,
        "candidates": " ".join(f"{c:g}" for c in setting.candidates) if setting else "",
        "tried": " ".join(f"{c:g}" for c in selection.scores) if selection else "",
        "selected_by": selection.by if selection else "",
        "against": comparison.reference if comparison else "",
        "difference": comparison.interval.mean if comparison else None,
        "low": comparison.interval.low if comparison else None,
        "high": comparison.interval.high if comparison else None,
        "verdict": comparison.verdict if comparison else "",
        **{name: mean_cost(filled.selected.values(), name) for name in COSTS},
        "command": "" if entry.values or entry.misfit else filled.command,
    }
