"""The ladder of learning rates on which a search goes on."""

from __future__ import annotations

import pytest

from experiments.study import rates


@pytest.mark.parametrize(
    ("rate", "below", "above"),
    [(1e-3, 3e-4, 3e-3), (3e-3, 1e-3, 1e-2), (2e-4, 1e-4, 3e-4), (7e-5, 3e-5, 1e-4), (1.0, 0.3, 3.0), (0.3, 0.1, 1.0)],
)
def test_the_next_rate_of_the_ladder(rate, below, above):
    assert (rates.next_rate(rate, False), rates.next_rate(rate, True)) == (below, above)


def test_a_search_goes_on_for_four_rates_beyond_each_edge():
    assert rates.beyond((1e-4, 2e-4, 3e-4), True) == [1e-3, 3e-3, 1e-2, 3e-2]
    assert rates.beyond((3e-4, 1e-4), False) == [3e-5, 1e-5, 3e-6, 1e-6]


@pytest.mark.parametrize(
    ("rate", "tried", "expected"),
    [(2, (1, 2, 3), ""), (1, (1, 2), "lowest"), (2, (1, 2), "highest"), (2, (2,), "only one")],
)
def test_edge(rate, tried, expected):
    assert rates.edge(rate, tried) == expected
