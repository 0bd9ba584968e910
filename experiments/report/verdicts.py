"""The verdict on each claim, from the intervals of its parts. `paper.claims` has the claims and the kinds of parts.

A part is reproduced when its condition holds for the whole interval, not reproduced when the interval contradicts the
condition, undecided otherwise. It is undecided, whatever the interval says, while the learning rate of a side may not
be the best, where a run of a side diverged, and where neither side can be told from the floor of knowing nothing.

A claim is reproduced when all its parts are: by chance alone that is no more likely than one part being reproduced, so
the parts need no correction. A claim is not reproduced when all its parts were run and at least one contradicts it. The
more parts, the likelier is one such part by chance, so the contradictions are corrected by Holm's method. A claim is
not run when no part was run, and undecided otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .. import paper, tasks
from ..paper import CLAIMS, Cell, Claim, ClaimPart, Quantity, Side
from ..paper.claims import BETTER, NO_WORSE, ON_PAR
from ..study import measures, question_samples, statistics
from ..study.fill import Results
from ..study.measures import Reading
from ..study.statistics import UNDECIDED, Interval

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN)
ANSWERS = {REPRODUCED: "yes", NOT_REPRODUCED: "no"}  # to a question of our own


@dataclass(frozen=True)
class SideNumbers:
    """What the runs of a side gave, over the seeds that count.

    Attributes:
        mean: The mean over the seeds.
        not_reached: In how many of the seeds the run never got there; the last step stands for its number.
    """

    mean: float
    not_reached: int = 0


@dataclass(frozen=True)
class PartVerdict:
    """The verdict on a part of a claim, and the numbers behind the verdict.

    Attributes:
        quantity: The quantity that decided; None where the part was not run.
        rank: The rank of both sides at the scale; None where they have none, or different ranks.
        side: The numbers of the side; None where there is no interval.
        reference: The numbers of the reference.
        interval: Of the advantage of the side over the reference, whichever way is better.
        margin: In the quantity's unit.
        neither: In how many common seeds neither side got there; these seeds are left out.
        reason: Why the verdict is undecided or not run, or why it says little; else empty.
    """

    part: ClaimPart
    verdict: str
    quantity: Quantity | None = None
    rank: int | None = None
    side: SideNumbers | None = None
    reference: SideNumbers | None = None
    interval: Interval | None = None
    margin: float = 0.0
    neither: int = 0
    reason: str = ""

    @property
    def p_contradicts(self) -> float:
        """The p-value by which the interval contradicts the condition of the part."""
        if self.interval is None:
            return 1.0
        if self.part.kind == ON_PAR:
            return min(self.interval.p_above(self.margin), self.interval.p_below(-self.margin))
        return self.interval.p_below(_bound(self.part.kind, self.interval, self.margin))


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict on a claim at a scale, and on its parts; `reason` says how many were not run."""

    claim: Claim
    scale: str
    verdict: str
    parts: tuple[PartVerdict, ...]
    reason: str = ""

    @property
    def word(self) -> str:
        """The verdict on a claim of the paper; the answer to a question of our own."""
        return self.verdict if self.claim.in_paper else ANSWERS.get(self.verdict, self.verdict)


def judge(claim: Claim, results: Results) -> ClaimVerdict:
    """The verdict on a claim at the scale of `results`."""
    parts = judge_parts(claim.parts, results)
    if all(p.verdict == NOT_RUN for p in parts):
        stand_ins = judge_parts(claim.stand_ins, results)
        parts = stand_ins if any(p.verdict != NOT_RUN for p in stand_ins) else parts
    verdict, reason = _of_parts([p.verdict for p in parts])
    return ClaimVerdict(claim, results.scale, verdict, parts, reason)


def _of_parts(verdicts: Sequence[str]) -> tuple[str, str]:
    """The verdict on a claim with parts of these verdicts, and why it is undecided."""
    if set(verdicts) <= {NOT_RUN}:
        return NOT_RUN, ""
    if set(verdicts) == {REPRODUCED}:
        return REPRODUCED, ""
    if NOT_RUN in verdicts:
        return UNDECIDED, f"{verdicts.count(NOT_RUN)} of {len(verdicts)} parts not run"
    return (NOT_REPRODUCED, "") if NOT_REPRODUCED in verdicts else (UNDECIDED, "")


def judge_parts(parts: Sequence[ClaimPart], results: Results) -> tuple[PartVerdict, ...]:
    """The verdicts on the parts of a claim; a contradiction must stand after the correction for their number."""
    judged = [judge_part(part, results) for part in parts]
    corrected = statistics.holm([part.p_contradicts for part in judged])
    for i, p in enumerate(corrected):
        if judged[i].verdict == NOT_REPRODUCED and p >= 1 - statistics.LEVEL:
            interval = judged[i].interval
            assert interval is not None
            bound = _bound(parts[i].kind, interval, judged[i].margin)
            reason = f"it contradicts the rule alone, and not after the correction for {len(parts)} parts"
            reason += f"; {statistics.what_would_decide(interval, bound, compared=len(parts))}"
            judged[i] = dataclasses.replace(judged[i], verdict=UNDECIDED, reason=reason)
    return tuple(judged)


def judge_part(part: ClaimPart, results: Results) -> PartVerdict:
    """The verdict on a part alone, over the seeds that both sides have."""
    rank = _own_rank(part, results)
    for quantity, margin in zip(part.quantities, part.margins or (0.0,) * len(part.quantities), strict=True):
        readings, reference = _readings(part.side, quantity, results), _readings(part.reference, quantity, results)
        common = sorted(readings.keys() & reference.keys())
        if not common:
            continue
        counted = [s for s in common if readings[s].reached or reference[s].reached]
        if not counted:
            last = max(readings[s].value for s in common)
            reason = f"neither got there in {last:,.0f} steps"
            return PartVerdict(part, UNDECIDED, quantity, rank, margin=margin, neither=len(common), reason=reason)
        higher = part.higher_is_better(quantity)
        sign = 1 if higher else -1
        advantages = [sign * (readings[s].value - part.times * reference[s].value) for s in counted]
        interval = statistics.interval(advantages)
        assert interval is not None
        numbers, reference_numbers = (_numbers([side[s] for s in counted]) for side in (readings, reference))
        means = (numbers.mean, reference_numbers.mean)
        interval, unknown = _with_questions(part, quantity, interval, means, results)
        verdict, reason = _decide(part.kind, interval, margin)
        if verdict == REPRODUCED and quantity.unit == "%" and higher and min(means) > 100 - margin:
            reason = "both means are closer to 100 % than the margin, so they cannot differ by more than the margin"
        doubts = _doubts(part, quantity, results)
        if unknown:
            doubts.append(unknown)
        if all(_at_floor([side[s] for s in counted], quantity) for side in (readings, reference)):
            doubts.append("neither can be told from its floor, the score of a model that knows nothing")
        if numbers.not_reached and reference_numbers.not_reached:
            doubts.append("each of the two did not get there with a seed, so the difference has no bound")
        if doubts:
            verdict, reason = UNDECIDED, "; ".join(doubts)
        return PartVerdict(
            part,
            verdict,
            quantity,
            rank,
            numbers,
            reference_numbers,
            interval,
            margin,
            len(common) - len(counted),
            reason,
        )
    missing = [s.name for s in (part.side, part.reference) if not all(results.cell(c).selected for c in s.cells)]
    reason = f"no runs of {' and '.join(missing)}" if missing else "no common measure or seed"
    return PartVerdict(part, NOT_RUN, rank=rank, margin=(part.margins or (0.0,))[0], reason=reason)


def _readings(side: Side, quantity: Quantity, results: Results) -> dict[int, Reading]:
    """Seed -> number of a side, of the finished runs at the selected rate."""
    values = _cell_readings(side.cell, quantity, results)
    if side.over is None:
        return values
    over, sign = _cell_readings(side.over, quantity, results), 1 if quantity.higher_is_better else -1
    return {s: Reading(sign * (values[s].value - over[s].value)) for s in values.keys() & over.keys()}


def _cell_readings(cell: Cell, quantity: Quantity, results: Results) -> dict[int, Reading]:
    filled = results.cell(cell, in_training=quantity.in_training)
    readings = {seed: measures.reading(r, quantity) for seed, r in filled.selected.items()}
    return {seed: reading for seed, reading in readings.items() if reading is not None}


def _numbers(readings: Sequence[Reading]) -> SideNumbers:
    return SideNumbers(sum(r.value for r in readings) / len(readings), sum(not r.reached for r in readings))


def _at_floor(readings: Sequence[Reading], quantity: Quantity) -> bool:
    floors, values = [r.floor for r in readings if r.floor is not None], [r.value for r in readings]
    known = len(floors) == len(values)
    return known and statistics.at_floor(values, floors, higher_is_better=quantity.higher_is_better)


def _own_rank(part: ClaimPart, results: Results) -> int | None:
    """The rank at the scale that stands for the paper's rank of both sides."""
    setting = results.cell(part.side.cell).setting
    return setting.rank if setting is not None and part.paper_rank is not None else None


def _with_questions(
    part: ClaimPart, quantity: Quantity, interval: Interval, means: tuple[float, float], results: Results
) -> tuple[Interval, str]:
    """The interval that knows the questions too, where the quantity is a metric of questions."""
    metric = next((m for m in tasks.get(part.side.cell.task).metrics if m.name == quantity.metric), None)
    cells = [*part.side.cells, *part.reference.cells]
    filled = [results.cell(cell, in_training=quantity.in_training) for cell in cells]
    runs = [record for f in filled for record in f.selected.values()]
    return question_samples.known(interval, metric, means, runs) if metric else (interval, "")


def _doubts(part: ClaimPart, quantity: Quantity, results: Results) -> list[str]:
    """Why the runs of a side may not show the side at its best, or hide its failures."""
    return [
        f"{side.name if side.over is None else paper.label(cell.method, cell.rank)}: {doubt}"
        for side in (part.side, part.reference)
        for cell in side.cells
        if (doubt := results.cell(cell, in_training=quantity.in_training).doubt)
    ]


def _bound(kind: str, interval: Interval, margin: float) -> float:
    """The number that the interval must not contain; of the two ends of a margin, the end nearer to the mean."""
    return {BETTER: 0.0, NO_WORSE: -margin, ON_PAR: math.copysign(margin, interval.mean)}[kind]


def _decide(kind: str, interval: Interval, margin: float) -> tuple[str, str]:
    if interval.low is None or interval.high is None:
        return UNDECIDED, "fewer than two seeds"
    bound = _bound(kind, interval, margin)
    if kind == ON_PAR:
        fulfils = interval.above(-margin) and interval.below(margin)
        contradicts = interval.above(margin) or interval.below(-margin)
    else:
        fulfils, contradicts = interval.above(bound), interval.below(bound)
    if fulfils or contradicts:
        return (REPRODUCED if fulfils else NOT_REPRODUCED), ""
    contained = "crosses the margin" if kind == ON_PAR else "contains the bound"
    return UNDECIDED, f"the interval {contained} of the rule; {statistics.what_would_decide(interval, bound)}"


def judge_all(results: Results) -> list[ClaimVerdict]:
    """The verdicts on all claims and on our questions, in order."""
    return [judge(claim, results) for claim in CLAIMS]
