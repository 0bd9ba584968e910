"""Reads one number from a record; None where the record does not hold the number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .. import paper, tasks
from ..paper import quantities
from ..store.records import Record

FEWEST_LOSSES = 3  # of the beginning and of the end of a curve: one noisy batch decides nothing
TAIL = 0.1  # a run ends with this part of its steps, and begins with as large a part


def number(value: Any) -> float | None:
    """A finite number, else None: what comes from a file may be anything."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def number_format(record: Record) -> str:
    """The number format in which a run trained, such as fp32."""
    return str(record.identity.get("hardware", {}).get("precision"))


def processor(record: Record) -> str:
    """The name of the processor on which a run trained; `unknown` where the record does not say the name."""
    hardware: Any = record.provenance.get("hardware")
    name = hardware.get("processor") if isinstance(hardware, dict) else None
    return name if isinstance(name, str) and name else "unknown"


def curve(record: Record, name: str) -> list[tuple[int, float]]:
    """The (step, value) points of a curve, in order."""
    points = [(row["step"], number(row[name])) for row in record.metrics["curve"] if name in row]
    return sorted((step, value) for step, value in points if value is not None)


def steps(record: Record) -> int | None:
    """How many steps the run was to take."""
    value = record.config.get("training", {}).get("steps")
    return value if type(value) is int and value > 0 else None


def final(record: Record, name: str) -> float | None:
    """A metric at the end of a run; None where the run has none, or where it is not finite."""
    return number(record.metrics["final"].get(name))


def floor(record: Record, name: str) -> float | None:
    """The value of the best answer that knows nothing of the question: the record's own, else the task's, else None."""
    metrics = {metric.name: metric for metric in tasks.get(record.cell["task"]).metrics}
    own = final(record, f"{name}_floor")
    return own if own is not None or name not in metrics else metrics[name].floor


def count_of(record: Record, setting: int | str | None) -> int | None:
    """A number of questions or documents: the number itself, or the setting of the record's task that holds it."""
    task = record.config.get("task", {})
    value = ((task.get("settings") or {}) | task).get(setting) if isinstance(setting, str) else setting
    return value if type(value) is int and value > 0 else None


def document_count(record: Record, metric: tasks.Metric) -> int | None:
    """Over how many documents a metric of a record is a mean: those that the run used, else the setting, the most."""
    rows = record.provenance.get("rows")
    used: Any = rows if isinstance(rows, dict) and metric.documents == "heldout_rows" else {}
    heldout = used.get("heldout")
    value = used.get("reported", heldout.get("used") if isinstance(heldout, dict) else None)
    return value if type(value) is int and value > 0 else count_of(record, metric.documents)


def question_count(record: Record, metric: tasks.Metric) -> int | None:
    """Over how many questions a metric of a record is a mean: the record's own number, else what the task declares."""
    own = final(record, f"{metric.name}_questions")
    return count_of(record, metric.questions) if own is None else int(own)


def cut_questions(record: Record) -> dict[str, int]:
    """Benchmark -> how many of its questions were longer than the model reads, for the benchmarks that have some."""
    benchmarks = {name.split(":")[0] for name in record.metrics["final"]}
    counts = {name: final(record, f"{name}_cut") for name in sorted(benchmarks)}
    return {name: int(count) for name, count in counts.items() if count}


def nearest(record: Record, name: str, fraction: float) -> tuple[int, float] | None:
    """The point of a curve nearest to a fraction of the training; the earlier of two equally near."""
    points, total = curve(record, name), steps(record)
    if not points or not total:
        return None
    return min(points, key=lambda p: (abs(p[0] - fraction * total), p[0]))


def at_fraction(record: Record, name: str, fraction: float) -> float | None:
    """The curve at the measured step nearest to a fraction of the training."""
    point = nearest(record, name, fraction)
    return None if point is None else point[1]


def mean_at(record: Record, name: str, fractions: tuple[float, ...]) -> float | None:
    """The mean of a curve over some fractions of the training."""
    values = [at_fraction(record, name, f) for f in fractions]
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if values and len(numbers) == len(values) else None


def steps_to(record: Record, name: str, threshold: float) -> float | None:
    """The step at which a rising curve first reaches `threshold`, interpolated; None where it never does."""
    return quantities.crossing(curve(record, name), threshold)


def last_step(record: Record, name: str) -> int | None:
    """The last step at which a curve was measured."""
    points = curve(record, name)
    return points[-1][0] if points else None


@dataclass(frozen=True)
class Reading:
    """A number of a record.

    Attributes:
        reached: False where the run never got there; the number is its last step.
        floor: The number of the best answer that knows nothing of the question; None where no such number is known.
    """

    value: float
    reached: bool = True
    floor: float | None = None


def reading(record: Record, quantity: paper.Quantity) -> Reading | None:
    """A quantity as a record has it; None where it does not."""
    value: float | None
    match quantity:
        case quantities.StepsTo(metric=metric, threshold=threshold):
            value = steps_to(record, metric, threshold)
            if value is None and (last := last_step(record, metric)):
                return Reading(last, reached=False)
        case quantities.CurveMean(metric=metric, fractions=fractions):
            value = mean_at(record, metric, fractions)
        case quantities.LargeSingularValues():
            value = large_singular_values(record)
        case quantities.LogarithmOfFinal(metric=metric):
            value = final(record, metric)
            value = math.log(value) if value is not None and value > 0 else None
        case _:
            value = final(record, quantity.metric)
    has_floor = isinstance(quantity, quantities.FinalMetric | quantities.CurveMean)
    return None if value is None else Reading(value, floor=floor(record, quantity.metric) if has_floor else None)


def training_loss(record: Record) -> float | None:
    """Mean training loss over the last tenth of the steps; None where it is not finite."""
    values = [number(loss) for loss in _last_losses(record.metrics["curve"], steps(record))]
    if not values or any(v is None for v in values):
        return None
    return sum(v for v in values if v is not None) / len(values)


def _last_losses(rows: list[dict[str, Any]], total: int | None) -> list[Any]:
    """The losses of the last tenth of the steps; none where the number of steps is not known."""
    start = (1 - TAIL) * total if total else math.inf
    return [row["loss"] for row in rows if row["step"] > start and "loss" in row]


def selection_score(record: Record, criterion: tasks.Criterion) -> float | None:
    """The number by which learning rates are selected; None where the record has no finite one."""
    if criterion.metric is None:
        return training_loss(record)
    if not criterion.is_mean:
        return final(record, criterion.metric)
    values = [value for _, value in curve(record, criterion.metric)]
    return sum(values) / len(values) if values else None


def diverged(record: Record) -> bool:
    """Whether the training blew up: a loss that is not finite, or a loss that ends clearly above the one it began with.

    The beginning is the first tenth of the steps, when the learning rate has hardly risen. One batch is noisy, so the
    end must be above 1.1 times the mean of the beginning and above each loss of the beginning. In a short curve the
    beginning and the end have `FEWEST_LOSSES` losses each, or half of the losses.
    """
    if record.status == "failed":
        return (record.error or {}).get("type") == "FloatingPointError"
    rows = [row for row in record.metrics["curve"] if "loss" in row]
    losses = [row["loss"] for row in rows]
    if None in losses or not all(map(math.isfinite, losses)):
        return True
    total = steps(record)
    end = _last_losses(rows, total)
    fewest = min(FEWEST_LOSSES, len(losses) // 2)
    if not end or not total or not fewest:
        return False
    last_of_beginning = TAIL * total
    beginning = [row["loss"] for row in rows if row["step"] <= last_of_beginning]
    beginning = beginning if len(beginning) > fewest else losses[:fewest]
    end = end if len(end) > fewest else losses[-fewest:]
    last = sum(end) / len(end)
    return last > 1.1 * sum(beginning) / len(beginning) and last > max(beginning)


def spectrum(record: Record) -> dict[str, float]:
    """Projection -> singular values of dW above 0.1, averaged over layers (`metrics.spectrum`, Figure 5)."""
    stored = record.metrics.get("spectrum")
    if not isinstance(stored, dict):
        return {}
    counts = {name: number(v.get("above")) for name, v in stored.items() if isinstance(v, dict)}
    return {name: count for name, count in counts.items() if count is not None}


def large_singular_values(record: Record) -> float | None:
    """Singular values of dW above 0.1, averaged over layers and projections."""
    counts = spectrum(record)
    return sum(counts.values()) / len(counts) if counts else None
