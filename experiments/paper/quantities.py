"""The numbers that claims compare: what each is called, which way is better, and what the paper prints for a cell.

`study.measures` reads them from records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import tasks
from .layout import Cell
from .lookup import printed
from .series import PAPER_STEPS, figure


@dataclass(frozen=True)
class Quantity:
    """A number that a run gives.

    Attributes:
        name: The name in tables.
        unit: The unit after a value; empty where the name says it.
        metric: The name of the final metric or of the curve in records.
        stand_in: Whether a smaller scale measures this number in place of the paper's.
    """

    name: str
    unit: str
    metric: str
    higher_is_better: bool
    stand_in: bool = False

    @property
    def difference_unit(self) -> str:
        """The unit after a difference: a difference of percentages is one of points."""
        return "points" if self.unit == "%" else self.unit

    def paper_value(self, cell: Cell) -> float | None:
        """The paper's number for a cell; None where it has none."""
        return None


@dataclass(frozen=True)
class FinalMetric(Quantity):
    """A metric at the end of the training."""

    def paper_value(self, cell: Cell) -> float | None:
        return printed(cell, self.metric)


@dataclass(frozen=True)
class LogarithmOfFinal(Quantity):
    """The natural logarithm of a metric at the end of the training: of a perplexity, the loss in nats a token."""


@dataclass(frozen=True)
class CurveMean(Quantity):
    """The mean of a curve over parts of the training.

    Attributes:
        fractions: The parts of the training.
        figure: The figure whose points are the paper's.
    """

    fractions: tuple[float, ...] = ()
    figure: int = 1

    def paper_value(self, cell: Cell) -> float | None:
        points = _points(self.figure, cell)
        values = [points.get(round(fraction * PAPER_STEPS)) for fraction in self.fractions]
        numbers = [value for value in values if value is not None]
        return sum(numbers) / len(values) if len(numbers) == len(values) else None


@dataclass(frozen=True)
class StepsTo(Quantity):
    """The step at which a rising curve reaches a threshold."""

    threshold: float = 0.0

    def paper_value(self, cell: Cell) -> float | None:
        return crossing(sorted(_points(1, cell).items()), self.threshold)


@dataclass(frozen=True)
class LargeSingularValues(Quantity):
    """The singular values of the update above 0.1, a mean over layers and projections."""


def _points(number: int, cell: Cell) -> dict[int, float]:
    """Step -> value of a cell in a figure of the paper."""
    return next((dict(series.points) for series in figure(number) if series.cell == cell), {})


def crossing(points: Sequence[tuple[int, float]], threshold: float) -> float | None:
    """The step at which a curve that starts at zero first reaches `threshold`, interpolated; None if it never does."""
    before = (0, 0.0)
    for step, value in points:
        if value >= threshold:
            gained = value - before[1]
            return step if gained <= 0 else before[0] + (step - before[0]) * (threshold - before[1]) / gained
        before = (step, value)
    return None


def final(task: str, name: str) -> FinalMetric:
    """The final metric `name` of a task."""
    metric = tasks.metric(task, name)
    return FinalMetric(metric.label, metric.unit, name, metric.higher_is_better, bool(metric.stands_for))


def headline(task: str) -> tuple[FinalMetric, ...]:
    """The headline of a task, and the first of its stand-ins if there are any."""
    return tuple(final(task, name) for name in tasks.get(task).headlines[:2])
