from __future__ import annotations

import pytest

from experiments import tasks
from experiments.paper import Cell
from experiments.study import measures

from .. import synthetic


@pytest.fixture
def run():
    return synthetic.record(synthetic.FixedProtocols("laptop").setting(Cell("uuid", "mora", 8)), 1e-2, 0)


def curve(run, *points):
    run.metrics["curve"] = [{"step": step, "char_accuracy": value, "loss": 1.0} for step, value in points]
    return run


def test_curve_is_read_at_the_nearest_step(run):
    curve(run, (20, 1.0), (40, 2.0), (90, 3.0))
    assert measures.nearest(run, "char_accuracy", 0.3) == (20, 1.0)  # 20 and 40 are equally near
    assert measures.at_fraction(run, "char_accuracy", 0.31) == 2.0
    assert measures.at_fraction(run, "char_accuracy", 1.0) == 3.0
    assert measures.at_fraction(run, "nothing", 0.5) is None


def test_steps_to_a_threshold_are_interpolated(run):
    assert measures.steps_to(curve(run, (10, 0.0), (20, 100.0)), "char_accuracy", 50) == 15
    assert measures.steps_to(curve(run, (10, 80.0)), "char_accuracy", 40) == 5  # from zero at step 0
    assert measures.steps_to(curve(run, (10, 9.0), (100, 20.0)), "char_accuracy", 50) is None
    assert measures.last_step(run, "char_accuracy") == 100
    assert measures.steps_to(curve(run), "char_accuracy", 50) is None


def test_training_loss_is_the_mean_of_the_last_tenth(run):
    run.metrics["curve"] = [{"step": s, "loss": float(s)} for s in (10, 90, 92, 100)]
    assert measures.training_loss(run) == 96


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([3.0, 2.0], False), ([3.0, None], True), ([3.0, 3.2], False), ([3.0, 9.0], True), ([3.0, float("nan")], True)],
)
def test_diverged(run, losses, expected):
    run.metrics["curve"] = [{"step": 50 * (i + 1), "loss": v} for i, v in enumerate(losses)]
    assert measures.diverged(run) is expected


# The first and the last losses of a run of 50 steps whose first batch happened to be easy (an instruction-tuning run).
LUCKY = [1.4934, 1.8021, 1.9444, 1.6110, 1.5790]


@pytest.mark.parametrize(
    ("begins", "ends", "expected"),
    [
        (LUCKY, [1.65, 1.66, 1.64, 1.65, 1.66], False),  # 1.106 times the first batch, 0.98 times the beginning
        (LUCKY, [1.70, 1.70, 1.70, 1.70, 1.70], False),
        (LUCKY, [1.90, 1.90, 1.90, 1.90, 1.90], False),  # above 1.1 times the mean, and yet below a batch
        (LUCKY, [1.95, 1.95, 1.95, 1.95, 1.95], True),
        ([2.8, 2.8, 2.8, 2.8, 2.8], [3.0, 3.0, 3.0, 3.0, 3.0], False),  # 1.07 times
        ([2.8, 2.8, 2.8, 2.8, 2.8], [3.2, 3.2, 3.2, 3.2, 3.2], True),  # stuck above the loss of a guess
    ],
)
def test_the_end_is_compared_with_the_first_tenth_of_the_steps(run, begins, ends, expected):
    run.config["training"]["steps"] = 50
    middle = [1.0] * 40
    run.metrics["curve"] = [{"step": i + 1, "loss": v} for i, v in enumerate([*begins, *middle, *ends])]
    assert measures.diverged(run) is expected


def test_a_failed_run_diverged_only_if_its_error_says_so(run):
    run.status, run.error = "failed", {"type": "RuntimeError", "message": ""}
    assert not measures.diverged(run)
    run.error["type"] = "FloatingPointError"
    assert measures.diverged(run)


@pytest.mark.parametrize("value", [True, "3", None, float("inf"), [1.0], {}])
def test_what_is_no_number_is_none(value):
    assert measures.number(value) is None


def test_spectrum_ignores_what_it_does_not_know(run):
    run.metrics["spectrum"] = {"q_proj": {"above": 4.0}, "k_proj": {"above": 2.0}, "v_proj": "odd", "o_proj": {}}
    assert measures.spectrum(run) == {"q_proj": 4.0, "k_proj": 2.0}
    assert measures.large_singular_values(run) == 3.0


def test_a_record_knows_how_many_questions_it_asked(run):
    metric = tasks.get("custom").metric("gsm8k")
    run.config["task"] = {"benchmark_limit": 200}
    assert measures.question_count(run, metric) == 200
    run.config["task"] = {"settings": {"benchmark_limit": 100}}
    assert measures.question_count(run, metric) == 100
    run.metrics["final"]["gsm8k_questions"] = 150
    assert measures.question_count(run, metric) == 150


def test_the_number_of_documents_is_that_of_the_run_and_not_the_most_that_were_allowed(run):
    metric = tasks.get("custom").metric("heldout_perplexity")
    run.config["task"] = {"heldout_rows": 12}
    for rows, expected in ((None, 12), ({"reported": 6}, 6), ({"heldout": {"used": 9}}, 9), ({"heldout": 3}, 12)):
        run.provenance["rows"] = rows
        assert measures.document_count(run, metric) == expected


@pytest.mark.parametrize(("losses", "expected"), [
    ([4.74, 5.1, 4.9, 4.8, 5.0, 5.95], False),  # a noisy last batch of two rows
    ([4.7, 4.8, 4.6, 4.9, 6.5, 7.9], True),
    ([3.0, 9.0], True), ([3.0], False),
])  # fmt: skip
def test_in_a_short_curve_no_single_batch_decides(run, losses, expected):
    run.config["training"]["steps"] = len(losses)
    run.metrics["curve"] = [{"step": i + 1, "loss": loss} for i, loss in enumerate(losses)]
    assert measures.diverged(run) is expected
