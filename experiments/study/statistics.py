"""Numbers over seeds: mean, deviation, and the interval of a difference.

The rule of the whole project: two cells are compared over the seeds that both have, run by run, with a two-sided 95 %
t interval of the paired differences. A seed fixes the order, the initialisation and, where the task draws them, the
data. Fewer than two such seeds decide nothing.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
NORMAL_QUANTILE = 1.959964  # half the width of a normal interval of this level, in standard errors
UNDECIDED = "undecided"  # the verdict where the numbers decide nothing
RULE = "95 % t interval of the paired differences over common seeds"


@dataclass(frozen=True)
class Summary:
    """`sd` is the sample deviation (n - 1); None for a single value."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean difference and its interval over n seeds.

    Attributes:
        low: The lower end; None where n < 2, as `high` is.
        questions: The part of half the width that the sample of questions adds, and that no further seed removes.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    questions: float = 0.0

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above a bound; never where there is no interval."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below a bound; never where there is no interval."""
        return self.high is not None and self.high < bound

    def turned(self) -> Interval:
        """The interval of the opposite difference."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Interval(-self.mean, low, high, self.n, self.questions)

    def over_questions(self, shares: Sequence[float], count: int) -> Interval:
        """The interval of a difference of two percentages, widened by what the questions themselves add.

        A record does not say which questions were answered rightly. So both shares count as independent samples of
        `count` questions, which is the largest variance that their difference can have unless the two models are right
        on opposite questions. One right and one wrong answer are added, so that 0 % and 100 % have a variance too.

        Args:
            shares: The two percentages.
            count: The number of questions.
        """
        if self.low is None or self.high is None:
            return self
        smoothed = [(share / 100 * count + 1) / (count + 2) for share in shares]
        error = 100 * math.sqrt(sum(share * (1 - share) for share in smoothed) / count)
        questions = NORMAL_QUANTILE * error
        half = math.hypot((self.high - self.low) / 2, questions)
        return Interval(self.mean, self.mean - half, self.mean + half, self.n, questions)

    def p_above(self, bound: float) -> float:
        """The two-sided p-value by which the mean lies above a bound: below 1 - LEVEL where `above` holds."""
        return self._p(self.mean - bound)

    def p_below(self, bound: float) -> float:
        """The two-sided p-value by which the mean lies below a bound: below 1 - LEVEL where `below` holds."""
        return self._p(bound - self.mean)

    def _p(self, distance: float) -> float:
        if self.low is None or self.high is None:
            return 1.0
        half = (self.high - self.low) / 2
        if half == 0:
            return 0.0 if distance > 0 else 1.0
        from scipy.special import stdtr

        return min(1.0, 2 * float(stdtr(self.n - 1, -distance / half * _quantile(self.n))))


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
    half = _quantile(sample.n) * sample.sd / math.sqrt(sample.n)
    return Interval(sample.mean, sample.mean - half, sample.mean + half, sample.n)


MOST_FORECAST = 100  # a forecast of more seeds than these is no advice


def what_would_decide(found: Interval, bound: float = 0.0, compared: int = 1) -> str:
    """How many seeds would put the whole interval on one side of a bound, in words; empty where nobody knows.

    The number is that of the mean and the deviation found so far, which a few seeds know only roughly.

    Args:
        found: An interval that does not decide.
        bound: The number that the interval must not contain.
        compared: The number of comparisons for which the p-value is multiplied (the first step of Holm's method).
    """
    if found.low is None or found.high is None:
        return ""

    def decides(seeds: int) -> bool:
        half = math.hypot(_quantile(seeds) * deviation / math.sqrt(seeds), found.questions)
        trial = Interval(found.mean, found.mean - half, found.mean + half, seeds)
        return compared * min(trial.p_above(bound), trial.p_below(bound)) < 1 - LEVEL

    of_seeds = math.sqrt(max(0.0, ((found.high - found.low) / 2) ** 2 - found.questions**2))
    deviation = of_seeds * math.sqrt(found.n) / _quantile(found.n)
    seeds = bisect.bisect_left(range(MOST_FORECAST + 1), True, lo=found.n + 1, key=decides)
    if seeds <= MOST_FORECAST:
        return f"about {seeds} seeds would decide"
    if found.questions and found.questions >= abs(found.mean - bound):
        return "more questions would have to be asked, since no number of seeds would decide"
    return f"even {MOST_FORECAST} seeds would hardly decide"


def at_floor(values: Sequence[float], floors: Sequence[float], *, higher_is_better: bool) -> bool:
    """Whether values cannot be told from their floors: the interval of the paired advantages is not above zero.

    A single value has no interval; it is at its floor if it is not better.
    """
    sign = 1 if higher_is_better else -1
    found = interval([sign * (value - floor) for value, floor in zip(values, floors, strict=True)])
    if found is None:
        return False
    return not found.above(0) if found.low is not None else found.mean <= 0


FEWEST_RANKED = 5  # with four pairs, even the same order is no more than chance at this level


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Spearman's rank correlation of pairs, with the 95 % interval of Bonett and Wright (2000).

    Returns:
        `mean` is the correlation. The interval has no ends for fewer than `FEWEST_RANKED` pairs. The formula has none
        for a correlation of 1 or -1, so the interval of half a step less is taken: the smallest step is an exchange of
        two neighbours. None for fewer than two pairs, or where all values of a side are equal.
    """
    n = len(x)
    a, b = ([rank - (n + 1) / 2 for rank in _ranks(values)] for values in (x, y))
    spread = math.sqrt(math.fsum(v * v for v in a) * math.fsum(v * v for v in b))
    if not spread:
        return None
    r = math.fsum(u * v for u, v in zip(a, b, strict=True)) / spread
    if n < FEWEST_RANKED:
        return Interval(r, None, None, n)
    most = 1 - 6 / (n * (n * n - 1))
    inside = max(-most, min(most, r))
    z = math.atanh(inside)
    half = NORMAL_QUANTILE * math.sqrt((1 + inside * inside / 2) / (n - 3))
    return Interval(r, math.tanh(z - half), math.tanh(z + half), n)


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each value in the order, from 1; equal values share the mean of their places."""
    ordered = sorted(values)
    places = {value: ordered.index(value) + (ordered.count(value) + 1) / 2 for value in ordered}
    return [places[value] for value in values]


def _quantile(n: int) -> float:
    """Half the width of a t interval over n values, in standard errors."""
    from scipy.special import stdtrit  # a fifth of a second, and only where something is compared

    return float(stdtrit(n - 1, (1 + LEVEL) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, by Holm's method, in the same order.

    The chance that any of them falls below a level although all null hypotheses hold is then at most that level.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = largest
    return corrected
