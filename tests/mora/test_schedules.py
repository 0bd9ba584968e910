"""Learning-rate schedules: equality with the values of the authors' code, at a peak rate of 5e-4 over 10,000 steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from mora.schedules import decay, jagged, official_lifted, plain

PAPER = {"steps": 10_000, "warmup": 1_000}
RESTARTS = {"every": 2_000, "rewarm": 50}


def rate(multiplier: float) -> str:
    """The learning rate in units of 1e-4, with the three decimals of the published values."""
    return f"{5 * multiplier:.3f}"


def test_published_values():
    # The authors' code counts steps from 1, the schedules here count from 0.
    assert rate(jagged(2051 - 1, **PAPER, **RESTARTS)) == "4.851"
    assert rate(jagged(4051 - 1, **PAPER, **RESTARTS)) == "3.841"
    assert rate(plain(4001 - 1, **PAPER)) == "3.750"
    assert rate(official_lifted(4001 - 1, **PAPER, **RESTARTS)) == "4.164"


def test_first_step_after_a_restart():
    assert jagged(2000, **PAPER, **RESTARTS) == 0
    assert official_lifted(2000, **PAPER, **RESTARTS) == pytest.approx(plain(2000, **PAPER))
    assert official_lifted(2001, **PAPER, **RESTARTS) == pytest.approx(plain(2000, **PAPER) / 50)


def test_between_restarts_jagged_equals_plain():
    for step in (0, 500, 1000, 1999, 2050, 3999, 4050, 9999):
        assert jagged(step, **PAPER, **RESTARTS) == plain(step, **PAPER, floor=0.1)


def test_a_restart_during_the_first_warm_up_does_not_change_the_rate():
    early = {"steps": 1000, "warmup": 300, "every": 100, "rewarm": 10}
    assert jagged(200, **early) == pytest.approx(200 / 300)
    assert jagged(300, **early) == 0
    long = {"steps": 1000, "warmup": 150, "every": 100, "rewarm": 60}
    for step in range(200):  # the rise after the restart at 100 would end after the warm-up
        assert jagged(step, **long) == plain(step, steps=1000, warmup=150, floor=0.1)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_plain_equals_transformers(shape):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(shape, optimizer, num_warmup_steps=7, num_training_steps=50)
    for step in range(50):
        assert plain(step, steps=50, warmup=7, shape=shape) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@given(
    steps=st.integers(2, 500),
    warmup=st.integers(0, 100),
    every=st.integers(1, 200),
    rewarm=st.integers(1, 50),
    shape=st.sampled_from(["linear", "cosine", "constant"]),
    step=st.integers(0, 499),
)
def test_every_schedule_stays_between_0_and_the_peak(steps, warmup, every, rewarm, shape, step):
    common = {"steps": steps, "warmup": warmup, "shape": shape}
    restarts = {"every": every, "rewarm": rewarm}
    step = min(step, steps - 1)
    values = [plain(step, **common), jagged(step, **common, **restarts), official_lifted(step, **common, **restarts)]
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    assert jagged(step, **common, **restarts, floor=0.0) <= plain(step, **common) + 1e-12 or step < warmup + rewarm


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="linear, cosine, constant, got 'square'"):
        decay("square", 0.5)
