"""The rules that decide a claim, at the edges of each verdict."""

from __future__ import annotations

import pytest

from experiments import paper
from experiments.paper import Cell
from experiments.report import claims, findings, verdicts
from experiments.report.verdicts import NOT_REPRODUCED, NOT_RUN, REPRODUCED, UNDECIDED
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")
CELL, REFERENCE = Cell("math", "mora", 8), Cell("math", "lora", 8)


def judge(scores, reference_scores, kind="better", margin=0.0, metric="gsm8k", times=1.0):
    """The verdict on a part whose cells have these scores, one for each seed."""
    both = ((CELL, scores), (REFERENCE, reference_scores))
    records = [
        record
        for cell, values in both
        for record in synthetic.measured(FIXED.setting(cell), [{metric: value} for value in values])
    ]
    part = claims.ClaimPart(
        "p",
        CELL,
        REFERENCE,
        (claims.final("math", "gsm8k"), claims.final("pretrain", "perplexity")),
        kind,
        (margin,) * 2,
        times,
    )
    return verdicts.judge_part(part, Results("laptop", records, FIXED))


@pytest.mark.parametrize(
    ("scores", "reference_scores", "expected"),
    [
        ([60.0, 61.0, 60.5], [50.0, 50.6, 50.4], REPRODUCED),
        ([50.0, 50.6, 50.4], [60.0, 61.0, 60.5], NOT_REPRODUCED),
        ([50.0, 55.0, 52.0], [51.0, 50.0, 54.0], UNDECIDED),
        ([60.0], [50.0], UNDECIDED),
        ([], [50.0, 51.0], NOT_RUN),
        ([50.0, 51.0], [50.0, 51.0], UNDECIDED),  # an interval of [0, 0] does not exclude zero
    ],
)
def test_better(scores, reference_scores, expected):
    assert judge(scores, reference_scores).verdict == expected


def test_lower_is_better_for_perplexity():
    part = judge([20.0, 20.1], [25.0, 25.1], metric="perplexity")
    assert part.verdict == REPRODUCED
    assert part.interval.mean == pytest.approx(5.0)
    assert (part.mean, part.reference_mean) == pytest.approx((20.05, 25.05))


@pytest.mark.parametrize(
    ("reference_scores", "margin", "expected"),
    [
        ([50.1, 51.0, 52.1], 1.0, REPRODUCED),
        ([55.0, 56.1, 57.0], 1.0, NOT_REPRODUCED),
        ([45.0, 46.1, 47.0], 1.0, NOT_REPRODUCED),
        ([50.9, 51.9, 53.2], 1.0, UNDECIDED),
    ],
)
def test_on_par(reference_scores, margin, expected):
    assert judge([50.0, 51.0, 52.0], reference_scores, "on par", margin).verdict == expected


@pytest.mark.parametrize(("reference_scores", "expected"), [([54.0, 55.1], REPRODUCED), ([56.0, 57.1], NOT_REPRODUCED)])
def test_no_worse(reference_scores, expected):
    assert judge([50.0, 51.0], reference_scores, "no worse", 5.0).verdict == expected


def test_many_more_is_more_than_twice():
    assert judge([21.0, 21.1], [10.0, 10.1], times=2.0).verdict == REPRODUCED
    assert judge([19.0, 19.1], [10.0, 10.1], times=2.0).verdict == NOT_REPRODUCED


@pytest.mark.parametrize(
    ("rates", "reference_rates", "reason"),
    [
        ((1e-3, 3e-3), (1e-3, 3e-3, 1e-2), "MoRA, r = 8: the learning rate 0.003 is the highest that was tried"),
        ((1e-3, 3e-3, 1e-2), (3e-3, 1e-2), "LoRA, r = 8: the learning rate 0.003 is the lowest that was tried"),
        (
            (3e-3,),
            (3e-3,),
            "MoRA, r = 8: the learning rate 0.003 is the only one that was tried; "
            "LoRA, r = 8: the learning rate 0.003 is the only one that was tried",
        ),
    ],
)
def test_a_verdict_is_undecided_while_a_rate_lies_at_the_edge(rates, reference_rates, reason):
    records = []
    for cell, tried, score in ((CELL, rates, 60.0), (REFERENCE, reference_rates, 50.0)):
        finals = [{"gsm8k": score}, {"gsm8k": score + 1}]
        records += [r for r in synthetic.measured(FIXED.setting(cell), finals) if r.cell["learning_rate"] in tried]
    part = claims.ClaimPart("p", CELL, REFERENCE, (claims.final("math", "gsm8k"),))
    judged = verdicts.judge_part(part, Results("laptop", records, FIXED))
    assert (judged.verdict, judged.reason) == (UNDECIDED, reason)
    assert judged.interval.low == judged.interval.high == 10.0


def judge_pretraining_order(perplexity):
    """The verdict on the order of the methods, given the mean perplexity of each method."""
    records = []
    for method, mean in perplexity.items():
        values = [mean + 0.1 * seed + 0.01 * synthetic.noise(method, seed) for seed in (0, 1, 2)]
        setting = FIXED.setting(Cell("pretrain", method, 128))
        records += synthetic.measured(setting, [{"perplexity": value} for value in values])
    (claim,) = (c for c in claims.CLAIMS if c.name == "pretraining-order")
    return verdicts.judge(claim, Results("laptop", records, FIXED)).verdict


def test_a_claim_is_reproduced_when_all_its_parts_are():
    perplexities = {"remora": 26.7, "mora": 28.5, "relora": 32.2, "lora": 33.4}
    assert judge_pretraining_order(perplexities) == REPRODUCED
    assert judge_pretraining_order(perplexities | {"mora": 32.2}) == UNDECIDED
    assert judge_pretraining_order(perplexities | {"mora": 40.0}) == NOT_REPRODUCED
    del perplexities["remora"]
    assert judge_pretraining_order(perplexities) == UNDECIDED
    assert judge_pretraining_order({}) == NOT_RUN


def test_stand_ins_decide_only_where_the_papers_task_was_not_run():
    (claim,) = (c for c in claims.CLAIMS if c.name == "operators-beat-truncation")
    cells = dict.fromkeys(cell for p in claim.stand_ins for cell in (p.cell, p.reference))
    uuid = [record for cell in cells for record in synthetic.searched(FIXED.setting(cell), (0, 1))]
    verdict = verdicts.judge(claim, Results("laptop", uuid, FIXED))
    assert {p.part.cell.task for p in verdict.parts} == {"uuid"}
    assert all(p.measure.stand_in for p in verdict.parts)
    math = [
        synthetic.record(FIXED.setting(c), synthetic.BEST, 0) for c in (claim.parts[0].cell, claim.parts[0].reference)
    ]
    verdict = verdicts.judge(claim, Results("laptop", uuid + math, FIXED))
    assert {p.part.cell.task for p in verdict.parts} == {"math"}


def test_every_claim_is_not_run_without_records():
    judged = verdicts.judge_all(Results("laptop", [], FIXED))
    assert len({v.claim.name for v in judged}) == len(judged) == 10
    assert {v.verdict for v in judged} == {NOT_RUN}


def test_the_papers_numbers_stand_beside_the_claims():
    judged = {v.claim.name: v for v in verdicts.judge_all(Results("laptop", [], FIXED))}
    rows = {(r["method"], r["rank"]): r["values"] for r in paper.paper_json()["table2"]["rows"]}
    (part,) = judged["keeps-up-with-fft"].parts
    means = [sum(rows[row].values()) / 4 for row in (("mora", 256), ("fft", None))]
    assert findings.paper_pair(part) == ", ".join(f"{m:.2f}" for m in means)
    low, _ = judged["fewer-steps"].parts
    steps = [low.part.measures[0].paper_value(c) for c in (low.part.cell, low.part.reference)]
    assert 500 < steps[0] < 700 < steps[1] < 900  # between the columns of Table 2 where 50 % lies
    assert findings.paper_pair(judged["operators-beat-truncation"].parts[0]) == "62.50, 59.50"
    assert findings.paper_pair(judged["more-singular-values"].parts[0]) == "—"
