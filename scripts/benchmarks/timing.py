"""Times that can be compared on a machine that others use too.

Candidates take turns, one call each a round, so that whatever slows the machine down for a while slows all of them.
Every other round runs backwards, so that none always follows the same one. A ratio is that of two medians over the
rounds; its spread is the quartiles of the ratio within each round. The ratio of the minima stands beside it: the
fastest call is the one that was disturbed least.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Samples = dict[str, list[float]]


def seconds_of(call: Callable[[], object]) -> float:
    """The time of one call by the clock of this machine, in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    seconds: float,
    rounds: tuple[int, int],
    clock: Callable[[Callable[[], object]], float] = seconds_of,
) -> Samples:
    """Seconds of each call of each candidate, after one call each that does not count.

    Args:
        candidates: What is called, by name. Calls must not depend on what the others do.
        seconds: When so much time is spent, no new round starts,
        rounds: but at least and at most so many are run.
        clock: Calls a candidate and gives the seconds of the call.
    """
    names = list(candidates)
    for name in names:
        candidates[name]()
    samples: Samples = {name: [] for name in names}
    fewest, most = rounds
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        for done in range(most):
            if done >= fewest and time.perf_counter() > end:
                break
            for name in names if done % 2 == 0 else reversed(names):
                samples[name].append(clock(candidates[name]))
    finally:
        gc.enable()
    return samples


def summary(values: list[float]) -> dict[str, Any]:
    """Median, quartiles and minimum of some times, in seconds."""
    low, median, high = _quartiles(values)
    return {"median": median, "q1": low, "q3": high, "min": _round(min(values)), "rounds": len(values)}


def ratio(samples: Samples, above: str, below: str, less: str | None = None) -> dict[str, Any]:
    """What `above` takes, divided by what `below` takes; of both what `less` takes is subtracted first, if given."""

    def value(times: dict[str, float]) -> float:
        base = times[less] if less else 0.0
        return (times[above] - base) / (times[below] - base)

    medians = {name: statistics.median(times) for name, times in samples.items()}
    minima = {name: min(times) for name, times in samples.items()}
    each = [value(dict(zip(samples, one, strict=True))) for one in zip(*samples.values(), strict=True)]
    low, _, high = _quartiles(each)
    return {"value": _round(value(medians)), "q1": low, "q3": high, "of_minima": _round(value(minima))}


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return (_round(values[0]),) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return _round(low), _round(median), _round(high)


def _round(value: float) -> float:
    return float(f"{value:.4g}")
