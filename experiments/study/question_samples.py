"""Differences of metrics that average over questions which are the same for every seed.

An interval over seeds says what another seed would give, and not what other questions would give.
"""

from __future__ import annotations

from collections.abc import Iterable

from .. import tasks
from ..store.records import Record
from . import measures
from .statistics import Interval


def known(
    interval: Interval, metric: tasks.Metric, means: tuple[float, float], runs: Iterable[Record]
) -> tuple[Interval, str]:
    """The interval of a difference that knows seeds and questions, and why it cannot decide; empty where it can.

    Args:
        interval: Over the seeds.
        metric: What is compared.
        means: The means over the seeds of the two that are compared.
        runs: The runs behind them, which say how many questions were asked.
    """
    if not metric.has_fixed_questions:
        return interval, ""
    if not metric.is_share:
        return (
            interval,
            f"{metric.label} is no mean over its questions, and nobody knows what other questions would give",
        )
    counts = [measures.question_count(run, metric) for run in runs]
    numbers = [count for count in counts if count is not None]
    if not numbers or len(numbers) < len(counts):
        return interval, f"it is not known over how many questions {metric.label} is a mean"
    if not all(0 <= mean <= 100 for mean in means):
        return interval, f"{metric.label} is not a share of its questions: a value lies outside 0 to 100 %"
    return interval.over_questions(means, min(numbers)), ""
