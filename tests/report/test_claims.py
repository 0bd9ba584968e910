"""The rules that decide a claim, at their edges."""

from __future__ import annotations

import pytest

from experiments import paper
from experiments.paper import Cell
from experiments.report import claims, findings, verdicts
from experiments.report.verdicts import NOT_REPRODUCED, NOT_RUN, REPRODUCED, UNDECIDED
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")
OURS, THEIRS = Cell("math", "mora", 8), Cell("math", "lora", 8)


def judged(ours, theirs, kind="better", margin=0.0, metric="gsm8k", times=1.0):
    records = []
    for cell, values in ((OURS, ours), (THEIRS, theirs)):
        for seed, value in enumerate(values):
            made = synthetic.record(FIXED.setting(cell), 1e-2, seed)
            made.metrics["final"] = {metric: value}
            records.append(made)
    part = claims.Part(
        "p", OURS, THEIRS, (claims.final("gsm8k"), claims.final("perplexity")), kind, (margin,) * 2, times
    )
    return verdicts.judge_part(part, Results("laptop", records, FIXED))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([60.0, 61.0, 60.5], [50.0, 50.6, 50.4], REPRODUCED),
        ([50.0, 50.6, 50.4], [60.0, 61.0, 60.5], NOT_REPRODUCED),
        ([50.0, 55.0, 52.0], [51.0, 50.0, 54.0], UNDECIDED),
        ([60.0], [50.0], UNDECIDED),
        ([], [50.0, 51.0], NOT_RUN),
        ([50.0, 51.0], [50.0, 51.0], UNDECIDED),  # an interval of [0, 0] does not exclude zero
    ],
)
def test_better(ours, theirs, expected):
    assert judged(ours, theirs).verdict == expected


def test_lower_is_better_for_perplexity():
    found = judged([20.0, 20.1], [25.0, 25.1], metric="perplexity")
    assert found.verdict == REPRODUCED
    assert found.interval.mean == pytest.approx(5.0)
    assert (found.ours, found.theirs) == pytest.approx((20.05, 25.05))


@pytest.mark.parametrize(
    ("theirs", "margin", "expected"),
    [
        ([50.1, 51.0, 52.1], 1.0, REPRODUCED),
        ([55.0, 56.1, 57.0], 1.0, NOT_REPRODUCED),
        ([45.0, 46.1, 47.0], 1.0, NOT_REPRODUCED),
        ([50.9, 51.9, 53.2], 1.0, UNDECIDED),
    ],
)
def test_on_par(theirs, margin, expected):
    assert judged([50.0, 51.0, 52.0], theirs, "on par", margin).verdict == expected


@pytest.mark.parametrize(("theirs", "expected"), [([54.0, 55.1], REPRODUCED), ([56.0, 57.1], NOT_REPRODUCED)])
def test_no_worse(theirs, expected):
    assert judged([50.0, 51.0], theirs, "no worse", 5.0).verdict == expected


def test_many_more_is_more_than_twice():
    assert judged([21.0, 21.1], [10.0, 10.1], times=2.0).verdict == REPRODUCED
    assert judged([19.0, 19.1], [10.0, 10.1], times=2.0).verdict == NOT_REPRODUCED


def pretraining(perplexity):
    records = []
    for method, mean in perplexity.items():
        for seed in (0, 1, 2):
            made = synthetic.record(FIXED.setting(Cell("pretrain", method, 128)), 1e-2, seed)
            made.metrics["final"] = {"perplexity": mean + 0.1 * seed + 0.01 * synthetic.noise(method, seed)}
            records.append(made)
    (claim,) = (c for c in claims.CLAIMS if c.name == "pretraining-order")
    return verdicts.judge(claim, Results("laptop", records, FIXED)).verdict


def test_a_claim_is_reproduced_when_all_its_parts_are():
    papers = {"remora": 26.7, "mora": 28.5, "relora": 32.2, "lora": 33.4}
    assert pretraining(papers) == REPRODUCED
    assert pretraining(papers | {"mora": 32.2}) == UNDECIDED
    assert pretraining(papers | {"mora": 40.0}) == NOT_REPRODUCED
    del papers["remora"]
    assert pretraining(papers) == UNDECIDED
    assert pretraining({}) == NOT_RUN


def test_stand_ins_decide_only_where_the_papers_task_was_not_run():
    (claim,) = (c for c in claims.CLAIMS if c.name == "operators-beat-truncation")
    uuid = [synthetic.record(FIXED.setting(p.ours), 1e-2, seed) for p in claim.stand_ins for seed in (0, 1)] + [
        synthetic.record(FIXED.setting(p.theirs), 1e-2, seed) for p in claim.stand_ins[:2] for seed in (0, 1)
    ]
    verdict = verdicts.judge(claim, Results("laptop", uuid, FIXED))
    assert {p.part.ours.task for p in verdict.parts} == {"uuid"}
    assert all(p.measure.stand_in for p in verdict.parts)
    math = [synthetic.record(FIXED.setting(c), 1e-2, 0) for c in (claim.parts[0].ours, claim.parts[0].theirs)]
    verdict = verdicts.judge(claim, Results("laptop", uuid + math, FIXED))
    assert {p.part.ours.task for p in verdict.parts} == {"math"}


def test_every_claim_is_not_run_without_records():
    found = verdicts.judge_all(Results("laptop", [], FIXED))
    assert len({v.claim.name for v in found}) == len(found) == 10
    assert {v.verdict for v in found} == {NOT_RUN}


def test_the_papers_numbers_stand_beside_the_claims():
    found = {v.claim.name: v for v in verdicts.judge_all(Results("laptop", [], FIXED))}
    rows = {(r["method"], r["rank"]): r["values"] for r in paper.published()["table2"]["rows"]}
    (part,) = found["keeps-up-with-fft"].parts
    means = [sum(rows[row].values()) / 4 for row in (("mora", 256), ("fft", None))]
    assert findings.published(part) == ", ".join(f"{m:.2f}" for m in means)
    low, _ = found["fewer-steps"].parts
    steps = [low.part.measures[0].published(c) for c in (low.part.ours, low.part.theirs)]
    assert 500 < steps[0] < 700 < steps[1] < 900  # between the columns of Table 2 where 50 % lies
    assert findings.published(found["operators-beat-truncation"].parts[0]) == "62.50, 59.50"
    assert findings.published(found["more-singular-values"].parts[0]) == "—"
