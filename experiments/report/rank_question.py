"""Does the measured rank of an update predict the score? The paper's thesis, asked over the rows of a study.

A row is a point: the singular values of its update above 0.1, and its score. The answer is the rank correlation of the
two over the rows, with its interval. The question is asked for each rank of the study alone, so for each number of
parameters: more parameters give both a higher rank of the update and a better score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..paper import Cell
from ..study import measures, statistics
from ..study.layout import Column
from .tables import UNSPENT, FilledTable, TableEntry, spent_share

AT_FLOOR = "its score cannot be told from its floor"
MOST_EQUAL = 0.5  # of the rows: where more have one score, the column cannot tell them apart


@dataclass(frozen=True)
class Point:
    """One row: its label and cell, its measured rank, and its score in the unit of the column, over the same seeds.

    `doubt` says why the row does not count: its score may be that of chance, another learning rate may be better, or it
    trains fewer parameters than the other rows.
    """

    label: str
    cell: Cell
    rank: statistics.Summary
    score: statistics.Summary
    doubt: str = ""


@dataclass(frozen=True)
class RankQuestion:
    """The question for one column of a study, and one rank of its rows.

    Attributes:
        column: The column.
        rank: The rank of the rows; None for rows without a rank.
        points: The rows whose runs recorded the singular values of their update. Two rows with the same runs are one
            point.
        correlation: The rank correlation of rank and score over the points without a doubt, turned so that a positive
            one means "a higher rank is better"; None where fewer than two points count, where all have one rank, or
            where more than `MOST_EQUAL` of them have one score.
        equal: The largest number of points without a doubt that have one score.
    """

    column: Column
    rank: int | None
    points: tuple[Point, ...]
    correlation: statistics.Interval | None
    equal: int = 1

    @property
    def answer(self) -> str:
        """`yes`, `no` (a higher rank is worse) or `undecided`."""
        if self.correlation is None:
            return statistics.UNDECIDED
        return "yes" if self.correlation.above(0) else "no" if self.correlation.below(0) else statistics.UNDECIDED

    @property
    def text(self) -> str:
        """The answer in a line."""
        c, count = self.correlation, len(self.points) - len(self.left_out)
        if self.tells_nothing:
            text = f"{self.equal} of {count} rows have the same score"
        elif c is None and count >= statistics.FEWEST_RANKED:
            text = f"all {count} rows have the same rank"
        elif c is None or c.low is None or c.high is None:
            text = f"{count} rows are too few"
        else:
            text = f"rank correlation {c.mean:.2f} [{c.low:.2f}, {c.high:.2f}] over {c.n} rows"
        return f"{self.answer}: {text}"

    @property
    def tells_nothing(self) -> bool:
        """Whether so many rows have one score, such as 100 %, that the column cannot tell them apart."""
        return is_at_one_score(self.equal, len(self.points) - len(self.left_out))

    @property
    def left_out(self) -> list[str]:
        """The points that do not count, with their doubts."""
        return [f"{point.label} ({point.doubt})" for point in self.points if point.doubt]


def questions(table: FilledTable) -> list[RankQuestion]:
    """The question for each column, and each rank, at which two rows have a score and a measured rank."""
    ranks = dict.fromkeys(row.any_rank for row in table.layout.rows)
    asked = [_question(table, i, rank) for i in range(len(table.columns)) for rank in ranks]
    return [question for question in asked if len(question.points) > 1]


def _question(table: FilledTable, index: int, any_rank: tuple[int | None, int | None]) -> RankQuestion:
    points: dict[frozenset[str], Point] = {}
    for entry in (row[index] for row in table.entries if row[index].row.any_rank == any_rank):
        ranks = {seed: measures.large_singular_values(run) for seed, run in entry.filled.selected.items()}
        both = [(rank, entry.values[seed]) for seed, rank in ranks.items() if rank is not None and seed in entry.values]
        rank, score = (statistics.summary(values) for values in ([r for r, _ in both], [v for _, v in both]))
        if rank and score:
            doubt = AT_FLOOR if entry.at_floor else entry.filled.doubt or _unspent(entry)
            runs = frozenset(run.key for run in entry.filled.selected.values())
            points.setdefault(runs, Point(entry.row.label, entry.filled.cell, rank, score, doubt))
    column = table.columns[index]
    sign = 1 if column.info.higher_is_better else -1
    counted = [point for point in points.values() if not point.doubt]
    correlation = statistics.rank_correlation([p.rank.mean for p in counted], [sign * p.score.mean for p in counted])
    equal = largest_tie([point.score.mean for point in counted])
    rank_of_rows = next(filter(None, any_rank), None)
    question = RankQuestion(column, rank_of_rows, tuple(points.values()), correlation, equal)
    return replace(question, correlation=None) if question.tells_nothing else question


def largest_tie(scores: Sequence[float]) -> int:
    """How many scores are the same, at most."""
    return max(Counter(scores).values(), default=0)


def is_at_one_score(equal: int, count: int) -> bool:
    """Whether more than `MOST_EQUAL` of several rows have one score, `equal` of `count`."""
    return equal > max(1, MOST_EQUAL * count)


def _unspent(entry: TableEntry) -> str:
    """Why a row that trains a part of the budget only is left out: fewer parameters may mean a worse score too."""
    share = spent_share(entry.filled.selected.values())
    return f"it trains {100 * share:.0f} % of the budget" if share is not None and share < UNSPENT else ""
