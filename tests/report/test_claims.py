"""The rules that decide a claim, at the edges of each verdict."""

from __future__ import annotations

import dataclasses
import math

import pytest

from experiments import paper, tasks
from experiments.paper import Cell, claims, quantities
from experiments.paper.claims import Side
from experiments.report import findings, tables, verdicts
from experiments.report.verdicts import CONTRADICTS, FULFILS, NOT_REPRODUCED, NOT_RUN, REPRODUCED, UNDECIDED
from experiments.study import printed, study_file
from experiments.study.fill import Results

from .. import synthetic

FIXED = synthetic.FixedProtocols("laptop")
CELL, REFERENCE = Cell("uuid", "mora", 8), Cell("uuid", "lora", 8)
MORA, LORA = Side("MoRA", CELL), Side("LoRA", REFERENCE)


def at_level(cell, accuracies, **finals):
    """A whole search whose runs at the selected rate have these accuracies all the time, one for each seed."""
    setting = FIXED.setting(cell)
    records = synthetic.measured(setting, [dict(finals) for _ in accuracies])
    for record in records:
        worse = record.cell["learning_rate"] != synthetic.best_rate(setting)
        for row in record.metrics["curve"]:
            row["char_accuracy"] = accuracies[record.cell["seed"]] - worse
    return records


def judge(scores, reference_scores, kind="better", margin=0.0, times=1.0, **finals):
    """The verdict on a part whose cells have these accuracies, one for each seed."""
    records = [*at_level(CELL, scores, **finals), *at_level(REFERENCE, reference_scores, **finals)]
    part = claims.ClaimPart("p", MORA, LORA, (claims.UUID_POINTS,), kind, (margin,), times)
    return verdicts.judge_part(part, Results("laptop", records, FIXED))


def judge_finals(quantity, finals, reference_finals, task="math", **settings):
    """The verdict on a part whose cells have these final metrics, one for each seed."""
    sides = [Side(name, Cell(task, method, 8)) for name, method in (("MoRA", "mora"), ("LoRA", "lora"))]
    records = [
        dataclasses.replace(record, config=record.config | {"task": settings})
        for side, values in zip(sides, (finals, reference_finals), strict=True)
        for record in synthetic.measured(FIXED.setting(side.cell), [{quantity.metric: value} for value in values])
    ]
    part = claims.ClaimPart("p", *sides, (quantity,))
    return verdicts.judge_part(part, Results("laptop", records, FIXED))


@pytest.mark.parametrize(
    ("scores", "reference_scores", "expected"),
    [
        ([60.0, 61.0, 60.5], [50.0, 50.6, 50.4], FULFILS),
        ([50.0, 50.6, 50.4], [60.0, 61.0, 60.5], CONTRADICTS),
        ([50.0, 55.0, 52.0], [51.0, 50.0, 54.0], UNDECIDED),
        ([60.0], [50.0], UNDECIDED),
        ([], [50.0, 51.0], NOT_RUN),
        ([50.0, 51.0], [50.0, 51.0], UNDECIDED),  # an interval of [0, 0] does not exclude zero
    ],
)
def test_better(scores, reference_scores, expected):
    assert judge(scores, reference_scores).verdict == expected


def test_lower_is_better_for_perplexity():
    part = judge_finals(quantities.final("pretrain", "perplexity"), [20.0, 20.1], [25.0, 25.1], "pretrain")
    assert part.verdict == FULFILS
    assert part.interval.mean == pytest.approx(5.0)
    assert (part.side.mean, part.reference.mean) == pytest.approx((20.05, 25.05))
    assert findings.difference(part) == "-5.00 [-5.00, -5.00], 2 seeds"
    assert findings.rule(part) == "below 0"


@pytest.mark.parametrize(
    ("reference_scores", "margin", "expected"),
    [
        ([50.1, 51.0, 52.1], 1.0, FULFILS),
        ([55.0, 56.1, 57.0], 1.0, CONTRADICTS),
        ([45.0, 46.1, 47.0], 1.0, CONTRADICTS),
        ([50.9, 51.9, 53.2], 1.0, UNDECIDED),
    ],
)
def test_on_par(reference_scores, margin, expected):
    assert judge([50.0, 51.0, 52.0], reference_scores, "on par", margin).verdict == expected


@pytest.mark.parametrize(("reference_scores", "expected"), [([54.0, 55.1], FULFILS), ([56.0, 57.1], CONTRADICTS)])
def test_no_worse(reference_scores, expected):
    assert judge([50.0, 51.0], reference_scores, "no worse", 5.0).verdict == expected


def test_many_more_is_more_than_twice():
    assert judge([21.0, 21.1], [10.0, 10.1], times=2.0).verdict == FULFILS
    assert judge([19.0, 19.1], [10.0, 10.1], times=2.0).verdict == CONTRADICTS


def test_two_sides_that_cannot_be_told_from_their_floors_are_undecided():
    """The means are above the floor of 11, but the interval of each contains it."""
    part = judge([16.0, 10.0, 13.0], [14.0, 8.1, 11.2], char_accuracy_floor=11.0)
    assert part.interval.low > 0
    assert (part.verdict, part.reason) == (
        UNDECIDED,
        "neither can be told from its floor",
    )


@pytest.mark.parametrize(("scores", "expected"), [([98.0, 98.5, 99.0], UNDECIDED), ([60.0, 60.5, 61.0], FULFILS)])
def test_means_near_100_percent_that_cannot_differ_by_the_margin_decide_nothing(scores, expected):
    part = judge(scores, [score + 0.1 for score in scores], "no worse", 5.0)
    assert part.verdict == expected
    assert ("they cannot differ by more than the margin" in part.reason) is (expected == UNDECIDED)


@pytest.mark.parametrize(
    ("floor", "kind", "expected"),
    [
        (9.0, "better", FULFILS),
        (12.0, "better", FULFILS),  # one side is above the floor
        (13.0, "better", UNDECIDED),
        (13.0, "no worse", UNDECIDED),
    ],
)
def test_a_difference_below_the_floor_decides_nothing(floor, kind, expected):
    part = judge([13.0, 13.0], [10.0, 10.0], kind, char_accuracy_floor=floor)
    assert part.verdict == expected
    said = "neither can be told from its floor"
    assert part.reason == ("" if expected == FULFILS else said)


@pytest.mark.parametrize(
    ("rates", "reference_rates", "reason"),
    [
        ((1e-3, 3e-3), (1e-3, 3e-3, 1e-2), "MoRA: the learning rate 0.003 is the highest that was tried"),
        ((1e-3, 3e-3, 1e-2), (3e-3, 1e-2), "LoRA: the learning rate 0.003 is the lowest that was tried"),
        (
            (3e-3,),
            (3e-3,),
            "MoRA: the learning rate 0.003 is the only one that was tried; "
            "LoRA: the learning rate 0.003 is the only one that was tried",
        ),
    ],
)
def test_a_verdict_is_undecided_while_a_rate_lies_at_the_edge(rates, reference_rates, reason):
    sides = ((CELL, rates, 60.0), (REFERENCE, reference_rates, 50.0))
    records = [
        record
        for cell, tried, score in sides
        for record in at_level(cell, [score, score + 1])
        if record.cell["learning_rate"] in tried
    ]
    part = claims.ClaimPart("p", MORA, LORA, (claims.UUID_POINTS,))
    judged = verdicts.judge_part(part, Results("laptop", records, FIXED))
    assert (judged.verdict, judged.reason) == (UNDECIDED, reason)
    assert judged.interval.low == judged.interval.high == 10.0


GSM8K = quantities.final("math", "gsm8k")


def test_an_interval_knows_the_questions_that_every_seed_answers():
    """1,319 questions: 60 and 50 % differ by 10 points, give or take 1.96 x 1.925 points, whatever the seeds say."""
    part = judge_finals(GSM8K, [60.0, 60.0], [50.0, 50.0])
    error = 100 * ((0.6 * 0.4 + 0.5 * 0.5) / 1319) ** 0.5
    assert error == pytest.approx(1.9274, abs=1e-4)
    assert part.interval.low == pytest.approx(10 - 1.96 * error, abs=0.01)
    assert part.verdict == FULFILS
    subset = quantities.final("math", "gsm8k_subset")
    assert judge_finals(subset, [60.0, 60.0], [50.0, 50.0], questions=32).verdict == UNDECIDED
    assert judge_finals(subset, [99.0, 99.0], [10.0, 10.0], questions=32).verdict == FULFILS


def test_an_unknown_number_of_questions_decides_nothing():
    part = judge_finals(quantities.final("biomed", "biomed_avg"), [90.0, 90.0], [10.0, 10.0], "biomed")
    assert (part.verdict, part.reason) == (
        UNDECIDED,
        "it is not known over how many questions BioMed average is a mean",
    )


def judge_pretraining_order(perplexity):
    """The verdict on the order of the methods, given the mean perplexity of each method."""
    records = []
    for method, mean in perplexity.items():
        values = [mean + 0.1 * seed + 0.01 * synthetic.noise(method, seed) for seed in (0, 1, 2)]
        setting = FIXED.setting(Cell("pretrain", method, 128))
        records += synthetic.measured(setting, [{"perplexity": value} for value in values])
    return verdicts.judge(claim_named("pretraining-order"), Results("laptop", records, FIXED))


def claim_named(name):
    """The claim of this name."""
    (claim,) = (c for c in claims.CLAIMS if c.name == name)
    return claim


def test_a_claim_is_reproduced_when_all_its_parts_are():
    perplexities = {"remora": 26.7, "mora": 28.5, "relora": 32.2, "lora": 33.4}
    assert judge_pretraining_order(perplexities).verdict == REPRODUCED
    undecided = judge_pretraining_order(perplexities | {"mora": 32.2})
    assert (undecided.verdict, undecided.reason) == (UNDECIDED, "")
    assert judge_pretraining_order(perplexities | {"mora": 40.0}).verdict == NOT_REPRODUCED
    del perplexities["remora"]
    assert judge_pretraining_order(perplexities).verdict == UNDECIDED
    assert judge_pretraining_order({}).verdict == NOT_RUN


def test_not_reproduced_needs_every_part_run():
    wrong_way_round = judge_pretraining_order({"mora": 40.0, "relora": 32.2})
    assert [p.verdict for p in wrong_way_round.parts] == [NOT_RUN, CONTRADICTS, NOT_RUN]
    assert wrong_way_round.verdict == UNDECIDED
    assert wrong_way_round.reason == (
        "2 of 3 parts not run; it cannot be reproduced any more, since a part contradicts its rule"
    )


def judge_operators(differences):
    """The verdict on the claim about truncation at the high rank, by the difference of each operator for each seed."""
    claim = claim_named("operators-beat-truncation")
    records = []
    for rank in (8, 256):
        for name, values in ({"truncation": (0.0, 0.0, 0.0)} | differences).items():
            records += at_level(Cell("uuid", "mora", rank, name), [50 + value for value in values])
    return verdicts.judge(claim, Results("laptop", records, FIXED))


def test_a_contradiction_must_stand_after_the_correction_for_the_parts_of_a_claim():
    """The p-value of the contradiction is 0.0351 in the first case, 0.00037 in the second; there are six parts."""
    good = (10.0, 11.0, 12.0)
    weak = judge_operators({"sharing": (-2.0, -3.0, -4.0), "decouple": good, "rotation": good})
    alone, *_ = weak.parts
    assert alone.interval.high == pytest.approx(-3 + 4.302653 / math.sqrt(3))
    assert alone.p_contradicts == pytest.approx(0.035098, abs=1e-6)
    assert (alone.verdict, alone.reason) == (
        UNDECIDED,
        "it contradicts the rule alone, and not after the correction for 6 parts; about 5 seeds would decide",
    )
    assert weak.verdict == UNDECIDED
    strong = judge_operators({"sharing": (-2.9, -3.0, -3.1), "decouple": good, "rotation": good})
    assert strong.parts[0].p_contradicts == pytest.approx(0.000370, abs=1e-6)
    assert (strong.parts[0].verdict, strong.verdict) == (CONTRADICTS, NOT_REPRODUCED)


def uuid_curves(method, curves):
    """Records of a whole search whose runs at the selected rate have these accuracies at steps 50 and 100, by seed."""
    records = synthetic.measured(FIXED.setting(Cell("uuid", method, 8)), [{}] * len(curves))
    for record in records:
        for row in record.metrics["curve"]:
            del row["char_accuracy"]
        half, end = curves[record.cell["seed"]] if record.cell["learning_rate"] == synthetic.BEST else (0.0, 0.0)
        record.metrics["curve"][4]["char_accuracy"], record.metrics["curve"][9]["char_accuracy"] = half, end
    return records


def judge_fewer_steps(mora, lora):
    """The verdict on MoRA's and LoRA's steps to 50 % at the low rank."""
    records = [*uuid_curves("mora", mora), *uuid_curves("lora", lora)]
    return verdicts.judge(claim_named("fewer-steps"), Results("laptop", records, FIXED)).parts[0]


def test_where_one_method_never_gets_there_its_number_is_the_last_step():
    part = judge_fewer_steps([(50.0, 90.0), (50.0, 95.0), (100.0, 100.0)], [(10.0, 20.0), (10.0, 75.0), (10.0, 20.0)])
    # Steps of MoRA: 50, 50, 25. Of LoRA: never in 100; 50 + 50 * 40 / 65 = 80.769; never in 100.
    assert (part.side.mean, part.side.not_reached) == (pytest.approx(125 / 3), 0)
    assert (part.reference.mean, part.reference.not_reached) == (pytest.approx(280.769 / 3, abs=1e-3), 2)
    assert part.interval.mean == pytest.approx((50 + 30.769 + 75) / 3, abs=1e-3)
    assert findings.ours(part) == "MoRA 41.7 steps, LoRA more than 93.6 steps (got there with 1 of 3 seeds)"
    assert findings.difference(part) == "-51.9 steps [-107.0, +3.17], 3 seeds"
    assert (findings.rule(part), part.verdict) == ("below 0", UNDECIDED)


def test_where_both_methods_miss_a_seed_the_difference_has_no_bound():
    soon, never = (50.0, 90.0), (10.0, 20.0)
    part = judge_fewer_steps([soon, soon, soon, never], [never, never, never, (10.0, 75.0)])
    assert (part.side.not_reached, part.reference.not_reached) == (1, 3)
    assert part.verdict == UNDECIDED
    assert part.reason == "MoRA, which is ahead, did not get there with 1 of 4 seeds, so the difference has no bound"


def test_a_seed_with_which_neither_method_gets_there_counts_as_no_difference():
    """Where such seeds were left out, two of five seeds would decide, chosen by what they gave."""
    never = (10.0, 20.0)
    part = judge_fewer_steps([(50.0, 90.0), (50.0, 90.0), never], [never, never, never])
    assert (part.interval.mean, part.interval.n, part.neither) == (pytest.approx(100 / 3), 3, 1)
    assert findings.ours(part) == (
        "MoRA more than 66.7 steps (got there with 2 of 3 seeds), "
        "LoRA more than 100.0 steps (got there with 0 of 3 seeds)"
    )
    assert findings.difference(part).endswith(
        "3 seeds (with 1 of them neither got there, which counts as no difference)"
    )
    assert part.verdict == UNDECIDED


def test_a_run_of_the_faster_method_that_never_gets_there_leaves_the_difference_without_a_bound():
    """The rule counts such a run as if it got there at the last step, which flatters the method."""
    soon = [(50.0, 90.0)] * 4
    part = judge_fewer_steps([(10.0, 45.0), *soon], [(10.0, 55.0), *[(10.0, 50.1)] * 4])
    assert part.interval.low > 0
    assert part.verdict == UNDECIDED
    assert part.reason.startswith("MoRA, which is ahead, did not get there with 1 of 5 seeds, so the difference has no")
    slower = judge_fewer_steps(soon, [(10.0, 45.0), *[(10.0, 20.0)] * 3])  # of the slower one it is a bound
    assert (slower.verdict, slower.reason) == (FULFILS, "")


def test_where_neither_method_gets_there_nothing_is_decided():
    never = [(10.0, 20.0)] * 3
    part = judge_fewer_steps(never, never)
    assert (part.verdict, part.reason) == (UNDECIDED, "neither got there in 100 steps")
    assert (part.interval, part.neither) == (None, 3)
    assert findings.difference(part) == "—"


def test_stand_ins_decide_only_where_the_papers_task_was_not_run():
    claim = claim_named("operators-beat-truncation")
    cells = dict.fromkeys(side.cell for p in claim.stand_ins for side in (p.side, p.reference))
    uuid = [record for cell in cells for record in synthetic.searched(FIXED.setting(cell), (0, 1))]
    verdict = verdicts.judge(claim, Results("laptop", uuid, FIXED))
    assert {p.part.side.cell.task for p in verdict.parts} == {"uuid"}
    assert all(p.quantity.stand_in for p in verdict.parts)
    first = claim.parts[0]
    math = [synthetic.record(FIXED.setting(s.cell), synthetic.BEST, 0) for s in (first.side, first.reference)]
    verdict = verdicts.judge(claim, Results("laptop", uuid + math, FIXED))
    assert {p.part.side.cell.task for p in verdict.parts} == {"math"}


def test_every_claim_is_not_run_without_records():
    judged = verdicts.judge_all(Results("laptop", [], FIXED))
    assert len({v.claim.name for v in judged}) == len(judged) == len(claims.CLAIMS)
    assert {v.verdict for v in judged} == {NOT_RUN}


def test_the_papers_numbers_stand_beside_the_claims():
    judged = {v.claim.name: v for v in verdicts.judge_all(Results("laptop", [], FIXED))}
    rows = {(r["method"], r["rank"]): r["values"] for r in paper.paper_json()["table2"]["rows"]}
    (part,) = judged["keeps-up-with-fft"].parts
    means = [sum(rows[row].values()) / 4 for row in (("mora", 256), ("fft", None))]
    assert findings.published(part) == f"MoRA at the high rank {means[0]:.1f} %, FFT {means[1]:.1f} %"
    low, _ = judged["fewer-steps"].parts
    steps = [printed.quantity_of(s.cell, low.part.quantities[0]) for s in (low.part.side, low.part.reference)]
    assert 500 < steps[0] < 700 < steps[1] < 900  # between the columns of Table 2 where 50 % lies
    assert findings.published(judged["operators-beat-truncation"].parts[0]) == "sharing 62.5 %, truncation 59.5 %"
    assert findings.published(judged["more-singular-values"].parts[0]) == "—"


def test_the_claims_of_the_paper_are_counted_apart_from_our_questions():
    ahead, behind = ({"perplexity": value} for value in (20.0, 30.0))
    cells = {"mora": (), "lora": paper.alpha_2r(128)}
    records = [
        record
        for (method, options), final in zip(cells.items(), (ahead, behind), strict=True)
        for record in synthetic.measured(FIXED.setting(Cell("pretrain", method, 128, options=options)), [final] * 2)
    ]
    judged = verdicts.judge_all(Results("laptop", records, FIXED))
    claims_of_paper, questions = findings.summary(judged).split("\nQuestions of our own: ")
    assert claims_of_paper.startswith("Claims of the paper: 20, of which 20 not run.\n")
    assert "|" not in claims_of_paper  # a claim of which nothing was run has no line
    assert questions.startswith("3, of which 1 undecided, 2 not run.\n\n| our question")
    question = next(v for v in judged if not v.claim.in_paper)
    assert [p.verdict for p in question.parts] == [NOT_RUN, NOT_RUN, FULFILS]


def test_an_answer_to_our_question_is_yes_or_no():
    claim = claim_named("ahead-at-one-scale")
    words = [verdicts.ClaimVerdict(claim, "laptop", verdict, ()).word for verdict in verdicts.VERDICTS]
    assert words == ["yes", "no", "undecided", "not run"]


def judge_perplexities(name, perplexities):
    """The verdict on a claim, given perplexities of two seeds for each method at the pretraining rank."""
    records = [
        record
        for method, values in perplexities.items()
        for record in synthetic.measured(
            FIXED.setting(Cell("pretrain", method, 128)), [{"perplexity": value} for value in values]
        )
    ]
    return verdicts.judge(claim_named(name), Results("laptop", records, FIXED))


def test_merging_is_judged_by_the_gain_of_each_method():
    """MoRA gains 5 and 6, LoRA 1 and 3: a difference of 4 and 3."""
    values = {"mora": (30.0, 31.0), "remora": (25.0, 25.0), "lora": (40.0, 42.0), "relora": (39.0, 39.0)}
    (part,) = judge_perplexities("merging-helps-mora-more", values).parts
    assert (part.side.mean, part.reference.mean) == (5.5, 2.0)
    assert (part.interval.mean, part.interval.n, part.verdict) == (3.5, 2, UNDECIDED)
    assert findings.subject(part) == "pretraining, gain (r = 128 in the paper, r = 8 here)"
    assert findings.ours(part) == "ReMoRA over MoRA 5.50, ReLoRA over LoRA 2.00"
    assert findings.rule(part) == "above 0"
    assert findings.published(part) == "ReMoRA over MoRA 1.80, ReLoRA over LoRA 1.21"
    (part,) = judge_perplexities("merging-helps-mora-more", values | {"lora": (40.0, 41.0)}).parts
    assert (part.interval.low, part.verdict) == (4.0, FULFILS)
    (part,) = judge_perplexities("merging-helps-mora-more", values | {"remora": (30.0, 31.0)}).parts
    assert (part.interval.mean, part.verdict) == (-2.0, UNDECIDED)
    del values["relora"]
    (part,) = judge_perplexities("merging-helps-mora-more", values).parts
    assert (part.verdict, part.reason) == (NOT_RUN, "no runs of ReLoRA over LoRA")


def test_perplexities_about_as_good_are_compared_by_their_logarithms():
    """100 and 104 differ by 0.0392 nats, 10 and 10.6 by 0.0583: the margin is 0.05 nats."""
    claim = claim_named("dora-par")
    finance = next(p for p in claim.parts if p.side.cell.task == "finance" and p.paper_rank == 8)
    for values, expected in (((100.0, 104.0), FULFILS), ((10.0, 10.6), CONTRADICTS)):
        records = [
            record
            for side, value in zip((finance.side, finance.reference), values, strict=True)
            for record in synthetic.measured(FIXED.setting(side.cell), [{"heldout_perplexity": value}] * 2)
        ]
        part = verdicts.judge_part(finance, Results("laptop", records, FIXED))
        assert part.interval.mean == pytest.approx(math.log(values[1] / values[0]))
        assert (part.verdict, findings.rule(part)) == (expected, "between -0.05 and 0.05")


def test_the_higher_rank_has_the_lower_loss():
    """Losses that fall with the rank reproduce the claim; one rank out of order contradicts it."""
    claim = claim_named("higher-rank-memorises")
    assert [(p.side.cell.rank, p.reference.cell.rank) for p in claim.parts] == [
        (16, 8), (32, 16), (64, 32), (128, 64), (256, 128)
    ]  # fmt: skip
    losses = {8: 1.0, 16: 0.8, 32: 0.6, 64: 0.5, 128: 0.3, 256: 0.2}
    for values, expected in ((losses, REPRODUCED), (losses | {64: 0.7}, NOT_REPRODUCED)):
        records = []
        for rank, loss in values.items():
            # Every rank has the same alpha / r: the protocol has another one at the highest rank.
            cell = Cell("uuid", "lora", rank, options=paper.alpha_2r(256) if rank == 256 else ())
            for record in synthetic.searched(FIXED.setting(cell), (0, 1)):
                for row in record.metrics["curve"]:
                    row["loss"] = loss
                records.append(record)
        assert verdicts.judge(claim, Results("laptop", records, FIXED)).verdict == expected
    assert findings.published(verdicts.judge(claim, Results("laptop", [], FIXED)).parts[-1]) == (
        "LoRA (r = 256 in the paper) 0.257, LoRA (r = 128 in the paper) 0.39"
    )


def test_rotation_is_best_at_the_low_rank_and_level_at_the_high_one():
    claim = claim_named("rotation-at-low-rank")
    values = {
        8: {"truncation": 20.0, "sharing": 30.0, "decouple": 40.0, "rotation": 50.0},
        256: {"sharing": 86.0, "decouple": 84.0, "rotation": 85.0},
    }
    for rotation, expected in ((85.0, REPRODUCED), (95.0, NOT_REPRODUCED)):
        values[256]["rotation"] = rotation
        records = [
            record
            for rank, accuracies in values.items()
            for name, value in accuracies.items()
            for record in at_level(Cell("uuid", "mora", rank, name), [value, value])
        ]
        judged = verdicts.judge(claim, Results("laptop", records, FIXED))
        assert judged.verdict == expected
    assert [p.verdict for p in judged.parts] == [FULFILS] * 3 + [CONTRADICTS] * 2


def test_the_order_of_singular_values():
    claim = claim_named("singular-values-order")
    for counts, expected in (((40, 30, 20, 10), REPRODUCED), ((40, 10, 20, 30), NOT_REPRODUCED)):
        records = []
        for method, count in zip(("remora", "mora", "relora", "lora"), counts, strict=True):
            for record in synthetic.searched(FIXED.setting(Cell("pretrain", method, 128)), (0, 1)):
                record.metrics["spectrum"] = {"q_proj": {"above": float(count)}}
                records.append(record)
        assert verdicts.judge(claim, Results("laptop", records, FIXED)).verdict == expected


def test_numbers_of_singular_values_that_perplexities_do_not_follow_are_no_reproduction():
    perplexities = {"remora": 40.0, "mora": 39.0, "relora": 30.0, "lora": 29.0}
    records = []
    for count, (method, value) in zip((40, 30, 20, 10), perplexities.items(), strict=True):
        for record in synthetic.measured(FIXED.setting(Cell("pretrain", method, 128)), [{"perplexity": value}] * 2):
            record.metrics["spectrum"] = {"q_proj": {"above": float(count)}}
            records.append(record)
    judged = verdicts.judge(claim_named("singular-values-order"), Results("laptop", records, FIXED))
    assert [part.verdict for part in judged.parts] == [FULFILS] * 3 + [CONTRADICTS] * 3
    assert judged.verdict == NOT_REPRODUCED


@pytest.mark.parametrize(
    ("of_full_training", "verdict", "reason"),
    [
        (70.0, UNDECIDED, "2 times ReLoRA is more than full training itself has, 70.0"),
        (90.0, CONTRADICTS, ""),
        (None, CONTRADICTS, ""),  # nobody knows what full training has
    ],
)
def test_many_more_than_full_training_has_is_expected_of_nobody(of_full_training, verdict, reason):
    counts = {"remora": 75.0, "relora": 40.0} | ({} if of_full_training is None else {"fft": of_full_training})
    records = []
    for method, count in counts.items():
        rank = None if method == "fft" else 128
        for record in synthetic.searched(FIXED.setting(Cell("pretrain", method, rank)), (0, 1)):
            record.metrics["spectrum"] = {"q_proj": {"above": count}}
            records.append(record)
    part = verdicts.judge(claim_named("more-singular-values"), Results("laptop", records, FIXED)).parts[1]
    assert (part.verdict, part.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("at_another_rate", "verdict", "reason"),
    [
        (98.0, CONTRADICTS, ""),  # LoRA's best is still better
        (
            94.0,
            UNDECIDED,
            "with the learning rates that are best by this number itself, the difference is -1",
        ),
    ],
)
def test_a_verdict_that_another_choice_of_rates_would_turn_is_undecided(at_another_rate, verdict, reason):
    """The rates are selected by the training loss, and what is compared is a perplexity of other texts."""
    records = []
    for method, value in (("mora", 100.0), ("lora", 95.0)):
        for record in synthetic.measured(FIXED.setting(Cell("biomed", method, 8)), [{"heldout_perplexity": value}] * 3):
            if method == "mora" and record.cell["learning_rate"] == 1e-3:
                record.metrics["final"]["heldout_perplexity"] = at_another_rate
            records.append(record)
    results = Results("laptop", records, FIXED)
    part = verdicts.judge(claim_named("continual-pretraining"), results).parts[0]
    assert (part.verdict, part.reason) == (verdict, reason)
    columns = {"heldout_perplexity": {"task": "biomed"}}
    rows = {"LoRA": {"method": "lora"}, "MoRA": {"method": "mora"}}
    study = study_file.of_entries("own", {"rows": rows, "ranks": ["r8"], "reference": "LoRA", "columns": columns})
    comparison = tables.fill(study, results).entries[1][0].comparison
    assert comparison.verdict == ("worse" if verdict == CONTRADICTS else UNDECIDED)
    assert (reason in " ".join(comparison.reasons)) is True


def test_claims_of_table_1_by_its_own_numbers():
    """The numbers of the paper as those of two seeds, where the metric is a loss: the claims about order hold."""
    for name in ("high-rank-math", "relora-below-lora", "fft-ahead"):
        claim, records = claim_named(name), []
        for cell in dict.fromkeys(c for p in claim.parts for s in (p.side, p.reference) for c in s.cells):
            metric = tasks.get(cell.task).stand_ins[0]
            score = 100 - printed.printed(cell, tasks.get(cell.task).headline)
            records += synthetic.measured(FIXED.setting(cell), [{metric: score}] * 2)
        assert verdicts.judge(claim, Results("laptop", records, FIXED)).verdict == REPRODUCED, name


def test_full_training_is_compared_with_both_methods():
    """MoRA is above full training's perplexity, ReMoRA below: not yes."""
    cells = {"mora": Cell("pretrain", "mora", 128), "remora": Cell("pretrain", "remora", 128)}
    perplexities = {cells["mora"]: 42.0, cells["remora"]: 30.0, Cell("pretrain", "fft"): 40.0}
    records = [
        record
        for cell, value in perplexities.items()
        for record in synthetic.measured(FIXED.setting(cell), [{"perplexity": value}] * 2)
    ]
    judged = verdicts.judge(claim_named("below-full-training"), Results("laptop", records, FIXED))
    assert [findings.found(p) for p in judged.parts] == [
        "pretraining: MoRA 42.0, full training 40.0; difference +2.00 [+2.00, +2.00], 2 seeds: contradicts the rule.",
        "pretraining: ReMoRA 30.0, full training 40.0; difference -10.0 [-10.0, -10.0], 2 seeds: fulfils the rule.",
    ]
    assert judged.word == "no"


def test_a_row_names_its_sides_and_its_rule_in_words_and_units():
    part = judge([84.0, 84.4], [17.0, 17.4], "no worse", 5.0)
    assert findings.part_line(part) == (
        "p, low rank (r = 8 in the paper, r = 4 here)",
        "mean character accuracy at 30, 50, 70 and 90 % of training",
        "MoRA 53.3 %, LoRA 21.2 %",
        "MoRA 84.2 %, LoRA 17.2 %",
        "MoRA minus LoRA: +67.0 points [+67.0, +67.0], 2 seeds",
        "above -5 points",
        "fulfils the rule",
    )
    part = judge([21.0, 21.1], [10.0, 10.1], times=2.0)
    assert findings.part_line(part)[4] == "MoRA minus 2 times LoRA: +1.0 points [+0.3, +1.6], 2 seeds"
    part = judge([50.0, 51.0], [50.0, 51.0], "on par", 1.0)
    assert findings.rule(part) == "between -1 points and 1 points"
    assert findings.found(part).endswith(", allowed between -1 points and 1 points: fulfils the rule.")


def test_the_paper_fulfils_its_own_claims():
    """Each part for which the paper prints both numbers holds for these two numbers."""
    checked = 0
    for part in (p for claim in claims.CLAIMS if claim.in_paper for p in claim.parts):
        quantity, margin = part.quantities[0], (part.margins or (0.0,))[0]
        values = [printed.side_value(side, quantity) for side in (part.side, part.reference)]
        if None in values:
            continue
        advantage = (1 if part.higher_is_better(quantity) else -1) * (values[0] - part.times * values[1])
        holds = {"better": advantage > 0, "no worse": advantage > -margin, "on par": abs(advantage) <= margin + 1e-9}
        assert holds[part.kind], (part, values)
        checked += 1
    assert checked == 73
