"""Deciding a claim: the interval of each part, the verdict of each part, the verdict of the whole."""

from __future__ import annotations

from dataclasses import dataclass

from ..study import statistics
from ..study.fill import Results
from ..study.statistics import Interval
from .claims import CLAIMS, Claim, Measure, Part

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
UNDECIDED, NOT_RUN = "undecided", "not run"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN)


@dataclass(frozen=True)
class PartVerdict:
    """The numbers behind a part: means of both, the signed difference and its interval."""

    part: Part
    verdict: str
    measure: Measure | None = None
    ours: float | None = None
    theirs: float | None = None
    interval: Interval | None = None
    margin: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class ClaimVerdict:
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
    found = {p.verdict for p in parts}
    if found == {NOT_RUN}:
        verdict = NOT_RUN
    elif NOT_REPRODUCED in found:
        verdict = NOT_REPRODUCED
    elif found == {REPRODUCED}:
        verdict = REPRODUCED
    else:
        verdict = UNDECIDED
    return ClaimVerdict(claim, results.scale, verdict, parts)


def judge_part(part: Part, results: Results) -> PartVerdict:
    """Compare over common seeds, signed so that above zero is what the paper says."""
    ours, theirs = results.cell(part.ours).selected, results.cell(part.theirs).selected
    for measure, margin in zip(part.measures, part.margins or (0.0,) * len(part.measures), strict=True):
        a = {s: v for s, r in ours.items() if (v := measure.read(r)) is not None}
        b = {s: part.times * v for s, r in theirs.items() if (v := measure.read(r)) is not None}
        interval = statistics.paired(a, b) if measure.higher_is_better else statistics.paired(b, a)
        if interval is None:
            continue
        common = a.keys() & b.keys()
        means = (sum(a[s] for s in common) / len(common), sum(b[s] for s in common) / len(common))
        verdict, reason = _decide(part.kind, interval, margin)
        return PartVerdict(part, verdict, measure, *means, interval, margin, reason)
    lacking = [name for name, runs in (("ours", ours), ("theirs", theirs)) if not runs]
    reason = "no runs" if lacking else "no common measure or seed"
    return PartVerdict(part, NOT_RUN, margin=(part.margins or (0.0,))[0], reason=reason)


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
    return (NOT_REPRODUCED, "") if interval.below(bound) else (UNDECIDED, "the interval holds the bound")


def judge_all(results: Results) -> list[ClaimVerdict]:
    return [judge(claim, results) for claim in CLAIMS]
