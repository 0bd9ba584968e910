"""What a study answers: for each row and metric a sentence with the difference from the reference, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ..study.statistics import UNDECIDED
from . import wording
from .tables import Comparison, FilledTable, TableEntry


@dataclass(frozen=True)
class Answer:
    """A comparison of a row with the reference.

    Attributes:
        verdict: "better", "worse" or "undecided".
        text: The comparison in one sentence.
    """

    verdict: str
    text: str


def answers(table: FilledTable) -> list[Answer]:
    """The answers of a study, metric by metric."""
    columns = range(len(table.columns))
    return [_answer(row[j], c) for j in columns for row in table.entries for c in row[j].comparisons]


MOST_LISTED = 20  # a reader of more sentences about what is undecided misses what is decided


def listed(table: FilledTable) -> list[Answer]:
    """The answers of a study; of very many, the decided ones and the number of the others, which the table lists."""
    found = answers(table)
    if len(found) <= MOST_LISTED or not table.layout.has_table:
        return found
    decided = [answer for answer in found if answer.verdict != UNDECIDED]
    undecided = f"{len(found) - len(decided)} of {len(found)} comparisons"
    others = f"{undecided}, which tables/{table.file('.md')} lists with their reasons."
    return [*decided, *([Answer(UNDECIDED, others)] if len(decided) < len(found) else [])]


FINAL = "final"  # the name of a column for the end of the training, in the files of studies


def final_text(table: FilledTable) -> str:
    """What a study says of its column `FINAL`: a line for the rows with runs, and a line for each comparison."""
    entries = [row[j] for row in table.entries for j, column in enumerate(table.columns) if column.name == FINAL]
    # A column of ours without any run is not in the table.
    info = next(column.info for column in table.layout.columns if column.name == FINAL)
    shown = "; ".join(f"{e.row.label}: {wording.ours(e)}" for e in entries if e.values) or "no runs yet"
    compared = [f"* {_answer(entry, c).text}\n" for entry in entries for c in entry.comparisons]
    name = info.label[0].upper() + info.label[1:]
    return f"{name}, {info.unit}, mean ± standard deviation (seeds): {shown}.\n\n" + "".join(compared)


def _answer(entry: TableEntry, comparison: Comparison) -> Answer:
    interval, metric = comparison.interval, entry.column.label
    reference, label = comparison.reference, entry.row.label
    seeds = f"{interval.n} paired seed{'' if interval.n == 1 else 's'}"
    unit = "points" if entry.column.info.unit == "%" else entry.column.info.unit
    if comparison.verdict == UNDECIDED:
        size = wording.interval(interval, entry.column)
        text = f"{metric}: {label} minus {reference} is {size} {unit}".rstrip()
        return Answer(UNDECIDED, f"{text}, {seeds}. Undecided: {'; '.join(comparison.reasons)}.")
    higher = interval.mean > 0
    size = wording.interval(interval if higher else interval.turned(), entry.column, signed=False)
    searched = comparison.searched
    who = "both" if len(searched) > 1 else "".join(searched)
    bracketed = f"; lower and higher learning rates were tried for {who}" if who else ""
    text = f"{metric}: {label} is {'higher' if higher else 'lower'} than {reference} by {size} {unit}"
    return Answer(comparison.verdict, f"{text.rstrip()}, {seeds}{bracketed}.")
