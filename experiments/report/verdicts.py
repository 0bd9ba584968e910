"""The verdict on each claim, from the intervals of its parts. `paper.claims` has the claims and the kinds of parts.

A part fulfils its rule when the rule holds for the whole interval, contradicts the rule when the whole interval
contradicts it, and is undecided otherwise. It is undecided, whatever the interval says, where `_doubts` finds a reason:
a learning rate that may not be the best, a run that diverged, a measure that cannot tell the sides apart.

A claim is reproduced when all its parts fulfil their rules: by chance alone that is no more likely than for one part,
so the parts need no correction. A claim is not reproduced when all its parts were run and at least one contradicts its
rule. The more parts, the likelier is one such part by chance, so the contradictions are corrected by Holm's method. A
claim is not run when no part was run, and undecided otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .. import paper, tasks
from ..paper import CLAIMS, Cell, Claim, ClaimPart, Quantity, Side
from ..paper.claims import BETTER, NO_WORSE, ON_PAR
from ..paper.quantities import LargeSingularValues
from ..study import measures, question_samples, statistics
from ..study.fill import Results
from ..study.measures import Reading
from ..study.statistics import UNDECIDED, Interval

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
FULFILS, CONTRADICTS = "fulfils the rule", "contradicts the rule"  # a part alone, which is no claim
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
        neither: In how many of the seeds neither side got there; the difference of such a seed counts as zero.
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
        """The p-value by which the interval contradicts the rule of the part."""
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
    if set(verdicts) == {FULFILS}:
        return REPRODUCED, ""
    if NOT_RUN in verdicts:
        hopeless = "; it cannot be reproduced any more, since a part contradicts its rule" * (CONTRADICTS in verdicts)
        return UNDECIDED, f"{verdicts.count(NOT_RUN)} of {len(verdicts)} parts not run{hopeless}"
    return (NOT_REPRODUCED, "") if CONTRADICTS in verdicts else (UNDECIDED, "")


def judge_parts(parts: Sequence[ClaimPart], results: Results) -> tuple[PartVerdict, ...]:
    """The verdicts on the parts of a claim; a contradiction must stand after the correction for their number."""
    judged = [judge_part(part, results) for part in parts]
    corrected = statistics.holm([part.p_contradicts if part.verdict == CONTRADICTS else 1.0 for part in judged])
    for i, p in enumerate(corrected):
        if judged[i].verdict == CONTRADICTS and p >= 1 - statistics.LEVEL:
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
        seeds = sorted(readings.keys() & reference.keys())
        if not seeds:
            continue
        neither = sum(not readings[s].reached and not reference[s].reached for s in seeds)
        if neither == len(seeds):
            last = max(readings[s].value for s in seeds)
            reason = f"neither got there in {last:,.0f} steps"
            return PartVerdict(part, UNDECIDED, quantity, rank, margin=margin, neither=neither, reason=reason)
        sign = 1 if part.higher_is_better(quantity) else -1
        interval = statistics.interval([sign * (readings[s].value - part.times * reference[s].value) for s in seeds])
        assert interval is not None
        numbers, reference_numbers = (_numbers([side[s] for s in seeds]) for side in (readings, reference))
        means = (numbers.mean, reference_numbers.mean)
        interval, unknown = _with_questions(part, quantity, interval, means, results)
        verdict, reason = _decide(part.kind, interval, margin)
        judged = PartVerdict(
            part, verdict, quantity, rank, numbers, reference_numbers, interval, margin, neither, reason
        )
        doubts = _doubts(judged, results) + ([unknown] if unknown else [])
        if all(_at_floor([side[s] for s in seeds], quantity) for side in (readings, reference)):
            doubts.append("neither can be told from its floor")
        return dataclasses.replace(judged, verdict=UNDECIDED, reason="; ".join(doubts)) if doubts else judged
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


def _doubts(judged: PartVerdict, results: Results) -> list[str]:
    """Why the numbers of a part decide nothing, whatever their interval says."""
    part, quantity, side, reference = judged.part, judged.quantity, judged.side, judged.reference
    assert quantity is not None and side is not None and reference is not None and judged.interval is not None
    doubts = [
        f"{one.name if one.over is None else paper.label(cell.method, cell.rank)}: {doubt}"
        for one in (part.side, part.reference)
        for cell in one.cells
        if (doubt := results.cell(cell, in_training=quantity.in_training).doubt)
    ]
    ahead, name = (side, part.side.name) if judged.interval.mean > 0 else (reference, part.reference.name)
    if ahead.not_reached:
        missed = f"{ahead.not_reached} of {judged.interval.n} seeds"
        doubts.append(f"{name}, which is ahead, did not get there with {missed}, so the difference has no bound")
    if part.kind != BETTER and _is_percentage(quantity) and min(side.mean, reference.mean) > 100 - judged.margin:
        doubts.append("both means are closer to 100 % than the margin, so they cannot differ by more than the margin")
    if part.ceiling is not None:
        ceiling = _readings(part.ceiling, quantity, results)
        most = _numbers(list(ceiling.values())).mean if ceiling else math.inf
        if part.times * reference.mean > most:
            doubts.append(
                f"{part.times:g} times {part.reference.name} is more than {part.ceiling.name} itself has, {most:.1f}"
            )
    return doubts + _doubt_of_selection(judged, results)


def _is_percentage(quantity: Quantity) -> bool:
    return quantity.unit == "%" and quantity.higher_is_better


def _doubt_of_selection(judged: PartVerdict, results: Results) -> list[str]:
    """Whether the verdict would be another one with the rates that are best by the compared number itself.

    A task may select its rates by another number, such as the training loss. The runs of the search are compared.
    """
    part, quantity = judged.part, judged.quantity
    if quantity is None or isinstance(quantity, LargeSingularValues) or part.side.over or part.reference.over:
        return []
    best = [_best_of_search(side.cell, quantity, results) for side in (part.side, part.reference)]
    if judged.verdict == UNDECIDED or None in best:
        return []
    value, reference = (number for number in best if number is not None)
    difference = value - part.times * reference
    advantage = difference if part.higher_is_better(quantity) else -difference
    if _decide(part.kind, Interval(advantage, advantage, advantage, 1), judged.margin)[0] == judged.verdict:
        return []
    return [f"with the learning rates that are best by this number itself, the difference is {difference:+.3g}"]


def _best_of_search(cell: Cell, quantity: Quantity, results: Results) -> float | None:
    """The best number among the runs of a cell's search; None where there is none."""
    filled = results.cell(cell, in_training=quantity.in_training)
    found = [reading.value for run in filled.searched_runs if (reading := measures.reading(run, quantity))]
    return (max if quantity.higher_is_better else min)(found, default=None)


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
        return (FULFILS if fulfils else CONTRADICTS), ""
    contained = "crosses the margin" if kind == ON_PAR else "contains the bound"
    return UNDECIDED, f"the interval {contained} of the rule; {statistics.what_would_decide(interval, bound)}"


def judge_all(results: Results) -> list[ClaimVerdict]:
    """The verdicts on all claims and on our questions, in order."""
    return [judge(claim, results) for claim in CLAIMS]
