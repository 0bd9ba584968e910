from __future__ import annotations

import itertools
import math

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from experiments.study import statistics

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=6)


def test_interval_against_a_textbook_value():
    # t(0.975, 2) = 4.3027; sd 1, n 3.
    found = statistics.interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval():
    assert statistics.interval([5.0]) == statistics.Interval(5.0, None, None, 1)
    assert statistics.interval([]) is None


def test_pairs_only_common_seeds():
    found = statistics.paired({0: 10.0, 1: 11.0, 5: 99.0}, {0: 9.0, 1: 9.0, 7: -99.0})
    assert (found.mean, found.n) == (1.5, 2)


def test_p_values_against_textbook_values():
    """P(|T| > 3) = 0.0955 and P(|T| > 4.302653) = 0.05 with two degrees of freedom."""
    found = statistics.interval([1.0, 2.0, 3.0])
    assert found.p_above(2 - 3 / math.sqrt(3)) == pytest.approx(0.0954660, abs=1e-6)
    assert found.p_above(found.low) == pytest.approx(0.05)
    assert found.p_below(found.high) == pytest.approx(0.05)
    assert found.p_below(2.0) == pytest.approx(1.0)
    assert found.p_below(0.0) == 1.0
    assert statistics.interval([5.0]).p_above(0) == 1.0
    same = statistics.interval([5.0, 5.0])
    assert (same.p_above(0), same.p_above(5.0), same.p_below(0)) == (0.0, 1.0, 1.0)


def test_questions_widen_an_interval():
    """49 of 98 and one right, one wrong more: 50 %; the error is 100 sqrt(2 x 0.25 / 98) = 7.142857 points."""
    seeds = statistics.Interval(10.0, 4.0, 16.0, 3)
    found = seeds.over_questions((50.0, 50.0), 98)
    assert (found.mean, found.n) == (10.0, 3)
    assert found.high - 10 == pytest.approx(math.hypot(6, 1.959964 * 7.142857), rel=1e-6)
    certain = seeds.over_questions((0.0, 0.0), 98)  # 1 of 100 each
    assert certain.high - 10 == pytest.approx(math.hypot(6, 1.959964 * 100 * math.sqrt(2 * 0.0099 / 98)), rel=1e-6)
    single = statistics.Interval(10.0, None, None, 1)
    assert single.over_questions((50.0, 50.0), 98) == single


def test_holm_against_an_example_by_hand():
    """0.01 x 3, 0.03 x 2, then the larger of 0.04 x 1 and the one before."""
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.6, 0.5]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(VALUES)
def test_the_opposite_difference_has_the_opposite_interval(values):
    one, other = statistics.interval(values), statistics.interval([-v for v in values])
    assert one.low == pytest.approx(-other.high, abs=1e-9)
    assert one.above(0) == other.below(0)


@given(VALUES, st.floats(-50, 50))
def test_shifting_shifts(values, shift):
    one, other = statistics.summary(values), statistics.summary([v + shift for v in values])
    assert other.mean == pytest.approx(one.mean + shift, abs=1e-9)
    assert other.sd == pytest.approx(one.sd, abs=1e-9)


def test_rank_correlation_against_scipy_and_a_textbook_interval():
    from scipy.stats import spearmanr

    x, y = [1.0, 2.0, 2.0, 4.0, 7.0, 5.0], [3.0, 1.0, 4.0, 4.0, 9.0, 5.0]
    found = statistics.rank_correlation(x, y)
    assert found.mean == pytest.approx(spearmanr(x, y).statistic)
    z, half = math.atanh(found.mean), 1.959964 * math.sqrt((1 + found.mean**2 / 2) / 3)
    assert (found.low, found.high) == pytest.approx((math.tanh(z - half), math.tanh(z + half)))
    assert found.n == 6


def test_rank_correlation_of_few_or_equal_values():
    assert statistics.rank_correlation([1.0, 2.0], [3.0, 3.0]) is None
    assert statistics.rank_correlation([], []) is None
    four = statistics.rank_correlation([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert (four.mean, four.low, four.high) == (1.0, None, None)
    five = statistics.rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0])
    assert five.below(0)
    assert five.mean == -1.0


@pytest.mark.parametrize(("values", "higher_is_better", "at_floor"), [
    ([60.0, 61.0], True, False), ([40.0, 41.0], True, True), ([40.0, 41.0], False, False), ([60.0, 61.0], False, True),
    ([50.0], False, True), ([49.0], False, False),
])  # fmt: skip
def test_the_floor_of_a_number_that_should_be_low_lies_above_good_values(values, higher_is_better, at_floor):
    floors = [50.0] * len(values)
    assert statistics.at_floor(values, floors, higher_is_better=higher_is_better) == at_floor


@pytest.mark.parametrize("compared", [1, 20])
@pytest.mark.parametrize("differences", [[1.0, 2.0, 6.0], [-0.5, 0.7, 0.3, 0.1], [-3.0, -1.0]])
def test_the_number_of_seeds_that_would_decide_is_the_smallest(differences, compared):
    """Scipy's quantiles of t say so, at a level that is divided by the number of comparisons."""
    found = statistics.interval(differences)
    sd = numpy.std(differences, ddof=1)

    def contains_zero(n):
        quantile = scipy.stats.t.ppf(1 - (1 - statistics.LEVEL) / 2 / compared, n - 1)
        return abs(found.mean) <= quantile * sd / math.sqrt(n)

    smallest = next(n for n in itertools.count(len(differences) + 1) if not contains_zero(n))
    expected = (
        f"about {smallest} seeds would" if smallest <= statistics.MOST_FORECAST else "even 100 seeds would hardly"
    )
    assert statistics.what_would_decide(found, compared=compared) == f"{expected} decide"


def test_what_no_number_of_seeds_would_decide():
    assert statistics.what_would_decide(statistics.interval([-1.0, 1.0])) == "even 100 seeds would hardly decide"
    assert statistics.what_would_decide(statistics.interval([1.0])) == ""  # nobody knows the deviation
    few_questions = statistics.interval([1.0, 2.0, 3.0]).over_questions((50.0, 52.0), 100)
    assert "more questions" in statistics.what_would_decide(few_questions)
    seeds_alone = statistics.interval([1.0, 2.0, 3.0])
    many_questions = seeds_alone.over_questions((50.0, 52.0), 100_000)
    assert statistics.what_would_decide(many_questions) == statistics.what_would_decide(seeds_alone)
