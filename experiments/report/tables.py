"""A table of the paper at one scale: theirs and ours, entry by entry; and as a pandas frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import tasks
from ..paper import Cell, Column, Row, Table
from ..store.records import Record
from ..study import measures, statistics
from ..study.fill import Filled, Results
from ..study.statistics import Interval, Summary

if TYPE_CHECKING:
    import pandas

REFERENCE_OPERATOR = "truncation"


@dataclass(frozen=True)
class Comparison:
    """An entry against its reference: LoRA at the same rank, or truncation where operators are compared."""

    reference: str
    interval: Interval
    verdict: str  # "better", "worse", or "undecided"


@dataclass(frozen=True)
class Entry:
    """One place of a table.

    Attributes:
        values: Seed -> our value, of the finished runs at the selected rate.
        steps: The steps at which a curve was read; empty for final metrics.
        best: The best mean of its column. Not a claim: `comparison` is.
    """

    row: Row
    column: Column
    filled: Filled
    values: dict[int, float]
    published: float | None
    steps: tuple[int, ...] = ()
    comparison: Comparison | None = None
    best: bool = False

    @property
    def summary(self) -> Summary | None:
        return statistics.summary(list(self.values.values()))


@dataclass(frozen=True)
class Made:
    """A table with its entries, `entries[i][j]` in row i and column j."""

    table: Table
    scale: str
    columns: tuple[Column, ...]
    entries: tuple[tuple[Entry, ...], ...]

    def has_published(self, column: int) -> bool:
        """Whether the paper prints anything in a column; ours alone is shown where it does not."""
        return any(row[column].published is not None for row in self.entries)

    def details(self) -> list[tuple[str, Filled]]:
        """The different cells that have runs, with the label of the row in which each comes first."""
        seen: dict[Cell, tuple[str, Filled]] = {}
        for row in self.entries:
            for entry in row:
                if entry.filled.runs:
                    seen.setdefault(entry.filled.cell, (entry.row.label, entry.filled))
        return list(seen.values())

    def commands(self) -> list[tuple[str, str, str]]:
        """(row, column or columns, command) of every cell without a value, each command once."""
        missing: dict[str, tuple[str, list[str]]] = {}
        for row in self.entries:
            for entry in row:
                if not entry.values and not entry.filled.selected:
                    missing.setdefault(entry.filled.command, (entry.row.label, []))[1].append(entry.column.label)
        return [
            (label, "all" if len(columns) == len(self.columns) else ", ".join(columns), command)
            for command, (label, columns) in missing.items()
        ]


def make(table: Table, results: Results) -> Made:
    """Fill a table from the records of one scale."""
    columns = tuple(c for c in table.columns if _shown(table, c, results))
    grid = [[_entry(table, row, column, results) for column in columns] for row in table.rows]
    compared = [[_with_comparison(entry, grid) for entry in row] for row in grid]
    return Made(table, results.scale, columns, _mark_best(compared, columns))


def values_of(filled: Filled, column: Column) -> dict[int, float]:
    """Seed -> value, over the finished runs at the selected rate that hold it."""
    found = {seed: _value(record, column) for seed, record in filled.selected.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _value(record: Record, column: Column) -> float | None:
    if column.at is None:
        return measures.final(record, column.metric)
    return measures.at_fraction(record, column.metric, column.at)


def _shown(table: Table, column: Column, results: Results) -> bool:
    if column.only_scale not in (None, results.scale):
        return False
    # A stand-in is a column only where somebody measured it.
    return not column.stand_in or any(values_of(results.cell(table.cell(row, column)), column) for row in table.rows)


def _entry(table: Table, row: Row, column: Column, results: Results) -> Entry:
    filled = results.cell(table.cell(row, column))
    steps: set[int] = set()
    if column.at is not None:
        read = (measures.nearest(r, column.metric, column.at) for r in filled.selected.values())
        steps = {point[0] for point in read if point is not None}
    published = row.published.get(column.name)
    return Entry(row, column, filled, values_of(filled, column), published, tuple(sorted(steps)))


def _with_comparison(entry: Entry, grid: list[list[Entry]]) -> Entry:
    reference = next((e for row in grid for e in row if _is_reference(e, entry)), None)
    if reference is None or reference is entry:
        return entry
    interval = statistics.paired(entry.values, reference.values)
    if interval is None:
        return entry
    sign = 1 if tasks.metric(entry.column.task, entry.column.metric).higher_is_better else -1
    better, worse = (interval.above(0), interval.below(0))[::sign]
    verdict = "better" if better else "worse" if worse else "undecided"
    return _replace(entry, comparison=Comparison(reference.row.label, interval, verdict))


def _is_reference(candidate: Entry, entry: Entry) -> bool:
    if candidate.column is not entry.column:
        return False
    if entry.row.operator is not None:
        return candidate.row.operator == REFERENCE_OPERATOR
    return entry.row.rank is not None and (candidate.row.method, candidate.row.rank) == ("lora", entry.row.rank)


def _mark_best(grid: list[list[Entry]], columns: tuple[Column, ...]) -> tuple[tuple[Entry, ...], ...]:
    best: list[float | None] = []
    for j, column in enumerate(columns):
        means = [e.summary.mean for row in grid if (e := row[j]).summary]
        pick = max if tasks.metric(column.task, column.metric).higher_is_better else min
        best.append(pick(means) if len(means) > 1 else None)
    return tuple(
        tuple(_replace(e, best=(s := e.summary) is not None and s.mean == best[j]) for j, e in enumerate(row))
        for row in grid
    )


def _replace(entry: Entry, **changes: Any) -> Entry:
    return dataclasses.replace(entry, **changes)


def mean_cost(records: Iterable[Record], name: str) -> float | None:
    """The mean of a cost over runs, None where none holds it."""
    found = statistics.summary([v for r in records if (v := measures.number(r.cost.get(name))) is not None])
    return found.mean if found else None


COSTS = ("trainable_parameters", "seconds", "peak_memory_bytes")


def frame(made: Made) -> pandas.DataFrame:
    """One line an entry: what it is, theirs, ours with deviation and n, the rate and how it was selected, the cost."""
    import pandas

    return pandas.DataFrame([_line(made, e) for row in made.entries for e in row])


def _line(made: Made, entry: Entry) -> dict[str, Any]:
    filled, ours, selection = entry.filled, entry.summary, entry.filled.selection
    setting, compared = filled.setting, entry.comparison
    runs = filled.at_selected
    return {
        "table": made.table.number,
        "scale": made.scale,
        "row": entry.row.label,
        "column": entry.column.label,
        "method": entry.row.method,
        "operator": setting.operator if setting else entry.row.operator,
        "paper_rank": filled.cell.rank,
        "rank": setting.rank if setting else None,
        "model": setting.model if setting else None,
        "task": entry.column.task,
        "metric": entry.column.metric,
        "paper": entry.published,
        "mean": ours.mean if ours else None,
        "sd": ours.sd if ours else None,
        "n": ours.n if ours else 0,
        "diverged": filled.count_diverged(runs),
        "failed": sum(r.status == "failed" for r in runs),
        "steps": " ".join(map(str, entry.steps)),
        "learning_rate": selection.rate if selection else None,
        "candidates": " ".join(f"{c:g}" for c in setting.candidates) if setting else "",
        "tried": " ".join(f"{c:g}" for c in selection.scores) if selection else "",
        "selected_by": selection.by if selection else "",
        "against": compared.reference if compared else "",
        "difference": compared.interval.mean if compared else None,
        "low": compared.interval.low if compared else None,
        "high": compared.interval.high if compared else None,
        "verdict": compared.verdict if compared else "",
        **{name: mean_cost(filled.selected.values(), name) for name in COSTS},
        "command": "" if entry.values else filled.command,
    }
