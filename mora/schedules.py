"""Learning-rate schedules with restarts, as pure functions of the step.

Each schedule returns a multiplier between 0 and 1. The learning rate at `step` is the peak rate times the multiplier.
`step` counts from 0: at step 0 the optimizer makes its first update. A schedule has no state, so a resumed run needs
none. All durations are numbers of optimizer steps:

    steps: the length of the run.
    warmup: the length of the linear warm-up at the start of the run.
    every: the distance between two restarts.
    rewarm: the length of the linear warm-up after a restart.
    shape: the decay, linear, cosine or constant.
    floor: the multiplier at the end of the run.
"""

from __future__ import annotations

import math


def decay(shape: str, progress: float) -> float:
    """Linear or cosine decay from 1 to 0 while `progress` goes from 0 to 1. `constant` stays at 1.

    Raises:
        ValueError: `shape` is not linear, cosine or constant.
    """
    progress = min(1.0, max(0.0, progress))
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if shape == "constant":
        return 1.0
    raise ValueError(f"shape must be one of linear, cosine, constant, got {shape!r}")


def plain(step: int, *, steps: int, warmup: int, shape: str = "cosine", floor: float = 0.0) -> float:
    """The multiplier at `step`: a linear warm-up from 0 to 1, then the decay to `floor`."""
    if step < warmup:
        return step / warmup
    return floor + (1.0 - floor) * decay(shape, (step - warmup) / max(1, steps - warmup))


def jagged(
    step: int, *, steps: int, warmup: int, every: int, rewarm: int, shape: str = "cosine", floor: float = 0.1
) -> float:
    """The multiplier at `step`: as `plain`, but 0 at each restart, with a linear rise to `plain` in `rewarm` steps.

    This is ReLoRA's `cosine_restarts` (arXiv 2307.05695), for any shape. After a restart Adam's moments are zero and
    the direction of the first steps is mostly noise, so the first steps must be small. A restart during the warm-up at
    the start of the run does not change the multiplier.
    """
    since_restart = step % every
    if since_restart >= rewarm or step - since_restart < max(warmup, every):
        return plain(step, steps=steps, warmup=warmup, shape=shape, floor=floor)
    rewarm_end = step - since_restart + rewarm
    return since_restart / rewarm * plain(rewarm_end, steps=steps, warmup=warmup, shape=shape, floor=floor)


def official_lifted(step: int, *, steps: int, warmup: int, every: int, rewarm: int, shape: str = "cosine") -> float:
    """The multiplier at `step` in the default schedule of the authors' code (kongds/MoRA).

    At each restart a new schedule starts, over the remaining steps and with the current rate as its peak. There are two
    differences from `jagged`. The first step after a restart has the full rate although Adam's moments are zero. And
    every restart lifts the curve, because the new schedule starts at the rate at which the schedule before it stopped:
    with 10,000 steps and a restart every 2,000 steps, the multiplier at step 4000 is 0.833; the plain cosine has 0.75.
    """
    if step < every:
        return plain(step, steps=steps, warmup=warmup, shape=shape)
    start = step - step % every  # the step of the last restart
    peak = _official_at_restart(start, steps=steps, warmup=warmup, every=every, rewarm=rewarm, shape=shape)
    if step == start:
        return peak
    return peak * plain(step - start, steps=steps - start, warmup=rewarm, shape=shape)


def _official_at_restart(start: int, *, steps: int, warmup: int, every: int, rewarm: int, shape: str) -> float:
    """The multiplier of `official_lifted` at the restart at step `start`: the last value of the schedule before it."""
    value = plain(every, steps=steps, warmup=warmup, shape=shape)
    for restart in range(every, start, every):
        value *= plain(every, steps=steps - restart, warmup=rewarm, shape=shape)
    return value
