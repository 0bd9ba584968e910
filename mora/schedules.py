"""Learning-rate schedules with restarts, as pure functions of the step.

Each returns what the peak rate is multiplied by at `step`, counted from 0: the value the optimizer uses for the
update number step + 1. Nothing is remembered between calls, so a resumed run needs no state.

    steps: length of the run.        warmup: steps of the first, linear warm-up.
    every: steps between restarts.   rewarm: steps of the warm-up after a restart.
"""

from __future__ import annotations

import math


def decay(shape: str, progress: float) -> float:
    """Linear or cosine decay from 1 to 0 as `progress` goes from 0 to 1; `constant` stays at 1."""
    progress = min(1.0, max(0.0, progress))
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if shape == "constant":
        return 1.0
    raise ValueError(f"shape must be one of linear, cosine, constant, got {shape!r}")


def plain(step: int, *, steps: int, warmup: int, shape: str = "cosine", floor: float = 0.0) -> float:
    """What the learning rate is multiplied by at `step` (counted from 0): linear warm-up, then decay to `floor`."""
    if step < warmup:
        return step / warmup
    return floor + (1.0 - floor) * decay(shape, (step - warmup) / max(1, steps - warmup))


def jagged(
    step: int, *, steps: int, warmup: int, every: int, rewarm: int, shape: str = "cosine", floor: float = 0.1
) -> float:
    """`plain`, but 0 at each restart and then, within `rewarm` steps, linearly back onto the curve.

    ReLoRA's `cosine_restarts` (arXiv 2307.05695) for any shape. Adam's moments are empty after a restart: the first
    steps, whose direction is mostly noise, are taken small.
    """
    since = step % every
    if step < max(warmup, every) or since >= rewarm:
        return plain(step, steps=steps, warmup=warmup, shape=shape, floor=floor)
    back = plain(step - since + rewarm, steps=steps, warmup=warmup, shape=shape, floor=floor)
    return since / rewarm * back


def jagged_cosine(step: int, *, steps: int, warmup: int, every: int, rewarm: int = 50, floor: float = 0.1) -> float:
    """`jagged` on a cosine."""
    return jagged(step, steps=steps, warmup=warmup, every=every, rewarm=rewarm, shape="cosine", floor=floor)


def official_lifted(step: int, *, steps: int, warmup: int, every: int, rewarm: int, shape: str = "cosine") -> float:
    """The default of the authors' code: at each restart a new schedule over what remains, from the current rate.

    Two things set it apart from `jagged`. The first step after a restart still runs at the full rate, with empty
    moments. And because each new schedule begins at the rate that the last one ended with, the curve is lifted at
    every restart (at step 4001 of 10,000, T = 2000: 0.833 of the peak where the plain cosine has 0.75).
    """
    if step < every:
        return plain(step, steps=steps, warmup=warmup, shape=shape)
    start = step - step % every
    # The rate at a restart is the last value of the schedule before it.
    peak = _official_at_end(start, steps=steps, warmup=warmup, every=every, rewarm=rewarm, shape=shape)
    if step == start:
        return peak
    return peak * plain(step - start, steps=steps - start, warmup=rewarm, shape=shape)


def _official_at_end(start: int, *, steps: int, warmup: int, every: int, rewarm: int, shape: str) -> float:
    value = plain(every, steps=steps, warmup=warmup, shape=shape)
    for previous in range(every, start, every):
        value *= plain(every, steps=steps - previous, warmup=rewarm, shape=shape)
    return value
