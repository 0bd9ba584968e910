"""Numbers over seeds: mean, deviation, and the interval of a difference.

The rule of the whole project: two cells are compared over the seeds that both have, run by run (a seed fixes data,
order and initialisation), with a two-sided 95 % t interval of the paired differences. Fewer than two such seeds decide
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
RULE = "95 % t interval of the paired differences over common seeds"


@dataclass(frozen=True)
class Summary:
    """`sd` is the sample deviation (n - 1); None for a single value."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean difference and its interval; `low` and `high` are None where n < 2."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above a bound; never where there is no interval."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below a bound; never where there is no interval."""
        return self.high is not None and self.high < bound


def summary(values: Sequence[float]) -> Summary | None:
    """None for no values."""
    if not values:
        return None
    n, mean = len(values), math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    return Summary(mean, sd, n)


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """`values` less `reference` (seed -> number), over the seeds that both have; None where they share none."""
    return interval([values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())])


def interval(differences: Sequence[float]) -> Interval | None:
    """The t interval of a mean."""
    sample = summary(differences)
    if sample is None or sample.sd is None:
        return None if sample is None else Interval(sample.mean, None, None, sample.n)
    from scipy.special import stdtrit  # a fifth of a second, and only where something is compared

    half = float(stdtrit(sample.n - 1, (1 + LEVEL) / 2)) * sample.sd / math.sqrt(sample.n)
    return Interval(sample.mean, sample.mean - half, sample.mean + half, sample.n)
