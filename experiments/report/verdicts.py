"""The verdict on each claim, from the intervals of its parts. claims.py has the rules."""

from __future__ import annotations

from dataclasses import dataclass

from .. import paper
from ..study import statistics
from ..study.fill import Results
from ..study.statistics import Interval
from .claims import CLAIMS, Claim, ClaimPart, Measure

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
UNDECIDED, NOT_RUN = "undecided", "not run"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN)


@dataclass(frozen=True)
class PartVerdict:
    """The verdict on a part of a claim, and the numbers behind the verdict.

    Attributes:
        measure: The measure that decided; None where the part was not run.
        mean: The mean of the cell's numbers over the seeds that both cells have.
        reference_mean: The mean of the reference's numbers over the same seeds.
        interval: Of the difference; the paper claims a positive difference.
        margin: In the measure's unit.
        reason: Why the verdict is undecided or not run; empty otherwise.
    """

    part: ClaimPart
    verdict: str
    measure: Measure | None = None
    mean: float | None = None
    reference_mean: float | None = None
    interval: Interval | None = None
    margin: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict on a claim at a scale, and the verdicts on its parts."""

    claim: Claim
    scale: str
    verdict: str
    parts: tuple[PartVerdict, ...]


def judge(claim: Claim, results: Results) -> ClaimVerdict:
    """The verdict on a claim at the scale of `results`."""
    parts = tuple(judge_part(part, results) for part in claim.parts)
    if all(p.verdict == NOT_RUN for p in parts):
        stand_ins = tuple(judge_part(part, results) for part in claim.stand_ins)
        parts = stand_ins if any(p.verdict != NOT_RUN for p in stand_ins) else parts
    part_verdicts = {p.verdict for p in parts}
    if part_verdicts == {NOT_RUN}:
        verdict = NOT_RUN
    elif NOT_REPRODUCED in part_verdicts:
        verdict = NOT_REPRODUCED
    elif part_verdicts == {REPRODUCED}:
        verdict = REPRODUCED
    else:
        verdict = UNDECIDED
    return ClaimVerdict(claim, results.scale, verdict, parts)


def judge_part(part: ClaimPart, results: Results) -> PartVerdict:
    """The verdict on a part, over the seeds that both cells have."""
    runs, reference_runs = results.cell(part.cell).selected, results.cell(part.reference).selected
    for measure, margin in zip(part.measures, part.margins or (0.0,) * len(part.measures), strict=True):
        a = {s: v for s, r in runs.items() if (v := measure.read(r)) is not None}
        b = {s: part.times * v for s, r in reference_runs.items() if (v := measure.read(r)) is not None}
        interval = statistics.paired(a, b) if measure.higher_is_better else statistics.paired(b, a)
        if interval is None:
            continue
        common = a.keys() & b.keys()
        means = (sum(a[s] for s in common) / len(common), sum(b[s] for s in common) / len(common) / part.times)
        verdict, reason = _decide(part.kind, interval, margin)
        if doubts := _doubts(part, results):
            verdict, reason = UNDECIDED, "; ".join(doubts)
        return PartVerdict(part, verdict, measure, *means, interval, margin, reason)
    reason = "no common measure or seed" if runs and reference_runs else "no runs"
    return PartVerdict(part, NOT_RUN, margin=(part.margins or (0.0,))[0], reason=reason)


def _doubts(part: ClaimPart, results: Results) -> list[str]:
    """Why the learning rate of either cell may not be the best."""
    named = ((paper.label(cell.method, cell.rank), results.cell(cell).doubt) for cell in (part.cell, part.reference))
    return [f"{name}: {doubt}" for name, doubt in named if doubt]


def _decide(kind: str, interval: Interval, margin: float) -> tuple[str, str]:
    if interval.low is None or interval.high is None:
        return UNDECIDED, "too few runs: fewer than two common seeds"
    if kind == "on par":
        if interval.above(-margin) and interval.below(margin):
            return REPRODUCED, ""
        outside = interval.above(margin) or interval.below(-margin)
        return (NOT_REPRODUCED, "") if outside else (UNDECIDED, "the interval crosses the margin")
    bound = -margin if kind == "no worse" else 0.0
    if interval.above(bound):
        return REPRODUCED, ""
    return (NOT_REPRODUCED, "") if interval.below(bound) else (UNDECIDED, "the interval contains the bound")


def judge_all(results: Results) -> list[ClaimVerdict]:
    """The verdicts on all claims, in order."""
    return [judge(claim, results) for claim in CLAIMS]
