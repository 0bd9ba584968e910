"""The learning rates of a search: which come next when the best of those tried lies at the edge."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

MANTISSAS = (1, 3)  # the ladder 1, 3, 10, 30, ...
MOST = 4  # a search goes on for at most so many rates beyond each edge of the protocol's candidates


def next_rate(rate: float, upward: bool) -> float:
    """The rate of the ladder 1, 3, 10, 30, ... that is next above, or next below, `rate`."""
    exponent = math.floor(math.log10(rate))
    ladder = [float(f"{m}e{e}") for e in range(exponent - 1, exponent + 3) for m in MANTISSAS]
    # A rate may be a rounding error away from a rung; that rung is not the next one.
    return min(r for r in ladder if r > rate * 1.01) if upward else max(r for r in ladder if r < rate * 0.99)


def beyond(candidates: Sequence[float], upward: bool) -> list[float]:
    """The rates by which a search may go on beyond an edge of its candidates, the nearest first."""
    rates, rate = [], max(candidates) if upward else min(candidates)
    for _ in range(MOST):
        rate = next_rate(rate, upward)
        rates.append(rate)
    return rates


def edge(rate: float, tried: Collection[float]) -> str:
    """Where `rate` lies among the rates that were tried: "" where others lie on both sides."""
    if any(r < rate for r in tried):
        return "" if any(r > rate for r in tried) else "highest"
    return "lowest" if any(r > rate for r in tried) else "only one"
