from __future__ import annotations

import math

import pytest
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
