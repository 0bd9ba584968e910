"""The numbers that claims compare: what each is called, and which way is better.

`study.measures` reads them from records, and `study.printed` from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .. import tasks


@dataclass(frozen=True)
class Quantity:
    """A number that a run gives.

    Attributes:
        name: The name in tables.
        unit: The unit after a value; empty where the name says it.
        metric: The name of the final metric or of the curve in records.
        stand_in: Whether a smaller scale measures this number in place of the paper's.
        in_training: Whether the number is read during the training, and not at the end.
    """

    in_training: ClassVar[bool] = False

    name: str
    unit: str
    metric: str
    higher_is_better: bool
    stand_in: bool = False

    @property
    def difference_unit(self) -> str:
        """The unit after a difference: a difference of percentages is one of points."""
        return "points" if self.unit == "%" else self.unit


@dataclass(frozen=True)
class FinalMetric(Quantity):
    """A metric at the end of the training."""


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

    in_training: ClassVar[bool] = True
    fractions: tuple[float, ...] = ()
    figure: str = "figure1"


@dataclass(frozen=True)
class StepsTo(Quantity):
    """The step at which a rising curve reaches a threshold."""

    in_training: ClassVar[bool] = True
    threshold: float = 0.0


@dataclass(frozen=True)
class LargeSingularValues(Quantity):
    """The singular values of the update above 0.1, a mean over layers and projections."""


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
