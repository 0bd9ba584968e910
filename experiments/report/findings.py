"""FINDINGS.md: for each claim of the paper and each question of ours, the rule, the numbers and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import paper
from ..paper.claims import BETTER, NO_WORSE, RANK_NAMES
from ..spec import scales as scales_of
from ..study import statistics
from ..study.fill import Results
from ..study.layout import Study
from ..study.printed import side_value
from ..study.statistics import Interval
from . import tables
from .answers import listed
from .markdown import compact_grid, grid
from .markdown import text as escaped
from .verdicts import ANSWERS, NOT_RUN, VERDICTS, ClaimVerdict, PartVerdict, SideNumbers, judge_all
from .wording import DASH

RULES = (
    "A claim has one or more parts. A part compares two methods by the difference of their means, the first minus "
    f"the second, with the {statistics.RULE}: each seed gives one difference, and the interval says where the mean of "
    "the differences probably lies.",
    "A part fulfils its rule if the whole interval does, contradicts the rule if the whole interval does, and is "
    "undecided otherwise. This is said of each part alone. The tables compare all rows of a column at once and correct "
    "for their number, so a difference that fulfils the rule of a part can be undecided in a table with many rows.",
    "A part is also undecided in these cases: the methods have fewer than two common seeds; or the learning rate of "
    "one of the methods was not searched, or is the lowest or the highest rate that was tried; or the verdict would be "
    "another one with the learning rates that are best by the compared number itself, in the runs of the search; or a "
    "run of one of the methods diverged at its rate; or neither method can be told from the floor, which is the score "
    "of the best answer that knows nothing of the question: the interval of its differences from the floor is not "
    "above zero; or both methods are closer to 100 % than the margin of the rule; or nobody knows how many questions a "
    "metric averages over; or a run of the method that is ahead did not get to the point that is compared.",
    "The learning rate of each method is the rate that was best in the search, by a number that the task names and "
    "that is the same for every method. For UUIDs there are two such numbers. What is read at the end has the rate "
    "with the lowest loss on values at the end. What is read during the training, such as steps to 50 %, has the rate "
    "with the highest mean accuracy over the training, where this mean is above the floor; else it has the rate of the "
    "values at the end. The run of the search counts among the seeds of the best rate, for every method alike. Such a "
    "run is better by chance too, so the mean of new seeds may be a little worse.",
    "Where more seeds would decide, a part says about how many: the smallest number whose interval would decide if the "
    "mean and the deviation of the differences stayed as they are. A few seeds know the deviation only roughly. "
    "Choose the number of seeds before you run them: whoever adds seeds until an interval decides finds differences by "
    "chance.",
    "A claim is reproduced if all its parts fulfil their rules. A claim is not reproduced if all its parts were run "
    "and at least one part contradicts its rule, after Holm's correction for the number of parts: among many parts, "
    "one contradicts its rule by chance now and then, so each must be clearer. A claim is not run if none of its parts "
    "was run, and undecided otherwise.",
    "A benchmark asks the same questions for every seed, so its interval is widened by the uncertainty that a sample "
    "of so many questions has. The intervals of losses and perplexities contain the differences between seeds, but "
    "not the differences between documents.",
    "A stand-in is what a smaller scale measures in place of the paper's metric.",
)
HEADER = """# Findings

`python scripts/make_tables.py` generates this file from the records in `runs/`. Do not edit it by hand.

""" + "".join(f"* {rule}\n" for rule in RULES)
LINE_BREAK = "<br>"


def number(value: float, unit: str = "") -> str:
    """Percentages and points with one decimal place, other numbers with about three significant digits."""
    size = abs(value)
    if unit in ("%", "points") or 10 <= size < 1000:
        return f"{value:.1f}"
    return f"{value:.3g}" if size < 1 else f"{value:.2f}" if size < 10 else f"{value:,.0f}"


def amount(value: float, unit: str) -> str:
    """A number with its unit: `84.2 %`."""
    return f"{number(value, unit)} {unit}".rstrip()


def brief_subject(part: PartVerdict) -> str:
    """What the two sides have in common, with the name of their rank: `UUIDs, low rank`."""
    name = RANK_NAMES.get(part.part.paper_rank) if part.part.paper_rank else None
    return f"{part.part.subject}, {name}" if name else part.part.subject


def subject(part: PartVerdict) -> str:
    """What the two sides have in common, with the numbers of their rank: `UUIDs, low rank (r = 8)`."""
    rank = part.part.paper_rank
    if rank is None:
        return brief_subject(part)
    here = f"r = {rank} in the paper, r = {part.rank} here" if part.rank not in (None, rank) else f"r = {rank}"
    return f"{brief_subject(part)} ({here})"


def measure(part: PartVerdict) -> str:
    """The name of the number that is compared: the one that decided, else the paper's."""
    quantity = part.quantity or part.part.quantities[0]
    return quantity.name + (" (stand-in)" if quantity.stand_in else "")


def published(part: PartVerdict) -> str:
    """The paper's numbers for both sides: of the quantity that decided, else of the first one."""
    quantity = part.quantity or part.part.quantities[0]
    values = [side_value(side, quantity) for side in (part.part.side, part.part.reference)]
    sides = zip((part.part.side, part.part.reference), values, strict=True)
    return (
        DASH if None in values else ", ".join(f"{s.name} {amount(v, quantity.unit)}" for s, v in sides if v is not None)
    )


def ours(part: PartVerdict) -> str:
    """Our means of both sides, with their names, over the seeds that count."""
    if part.side is None or part.reference is None:
        return DASH
    return f"{_mean(part, part.part.side, part.side)}, {_mean(part, part.part.reference, part.reference)}"


def _mean(part: PartVerdict, side: paper.Side, numbers: SideNumbers) -> str:
    assert part.quantity is not None and part.interval is not None
    text = amount(numbers.mean, part.quantity.unit)
    if not numbers.not_reached:
        return f"{side.name} {text}"
    seeds = part.interval.n
    return f"{side.name} more than {text} (got there with {seeds - numbers.not_reached} of {_seeds(seeds)})"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def sides(part: PartVerdict) -> str:
    """Of what the difference is taken: `MoRA minus LoRA`."""
    times = "" if part.part.times == 1 else f"{part.part.times:g} times "
    return f"{part.part.side.name} minus {times}{part.part.reference.name}"


def difference(part: PartVerdict) -> str:
    """The difference in words and units: `+67.0 points [+57.0, +78.0], 3 seeds`; a dash where there is none."""
    if part.interval is None or part.quantity is None:
        return DASH
    unit = part.quantity.difference_unit
    shown = _as_measured(part)
    text = f"{_signed(shown.mean, unit)} {unit}".rstrip()
    if shown.low is not None and shown.high is not None:
        text += f" [{_signed(shown.low, unit)}, {_signed(shown.high, unit)}]"
    neither = f" (with {part.neither} of them neither got there, which counts as no difference)" if part.neither else ""
    return f"{text}, {_seeds(shown.n)}{neither}"


def _as_measured(part: PartVerdict) -> Interval:
    """The interval of the difference, side less reference, where the part holds the interval of the advantage."""
    assert part.interval is not None and part.quantity is not None
    if part.part.higher_is_better(part.quantity):
        return part.interval
    return part.interval.turned()


def _signed(value: float, unit: str) -> str:
    return number(value, unit) if value < 0 else f"+{number(value, unit)}"


def rule(part: PartVerdict) -> str:
    """The condition on the interval of the difference, in words and units."""
    quantity = part.quantity or part.part.quantities[0]
    margin = f"{part.margin:g} {quantity.difference_unit}".rstrip()
    higher = part.part.higher_is_better(quantity)
    if part.part.kind == BETTER:
        return "above 0" if higher else "below 0"
    if part.part.kind == NO_WORSE:
        return f"above -{margin}" if higher else f"below {margin}"
    return f"between -{margin} and {margin}"


def verdict_text(verdict: str, reason: str) -> str:
    """A verdict, with its reason if it has one."""
    return f"{verdict}: {reason}" if reason else verdict


PART_HEADER = ("compared", "measure", "the paper", "ours", "difference [95 %]", "rule", "verdict")


def part_line(part: PartVerdict) -> tuple[str, ...]:
    """A part as a line of a table, in the order of PART_HEADER."""
    return (
        subject(part),
        measure(part),
        published(part),
        ours(part),
        DASH if part.interval is None else f"{sides(part)}: {difference(part)}",
        rule(part),
        verdict_text(part.verdict, part.reason),
    )


def scales_with_findings(scales: Sequence[str]) -> list[str]:
    """The scales that FINDINGS.md covers: all but smoke, whose runs are too short to learn; laptop if none is left."""
    return [s for s in scales_of.names() if s in scales and s != "smoke"] or ["laptop"]


def page(all_results: Sequence[tuple[Results, Sequence[Study]]]) -> str:
    """The text of FINDINGS.md, with a section for each scale: its own studies first, then the claims of the paper.

    Args:
        all_results: The results of each scale, and the studies of which something was run there.
    """
    parts = [HEADER]
    for results, studies in all_results:
        parts.append(f"## Scale: {results.scale}\n")
        own = [study for study in studies if not study.is_of_paper]
        parts += [study_section(study, results) for study in own]
        if len(own) == len(studies) and own:
            continue  # nothing of the paper was run: a list of claims that were not run says nothing
        verdicts = judge_all(results)
        parts.append(summary(verdicts))
        parts += [section(v) for v in verdicts]
    return "\n".join(parts)


def study_section(study: Study, results: Results) -> str:
    """What a study answers, sentence by sentence."""
    found = listed(tables.fill(study, results))
    lines = [f"* **{answer.verdict}**: {escaped(answer.text)}" for answer in found]
    return "\n".join([f"### {escaped(study.title)}\n", *(lines or ["* There is nothing to compare yet."]), ""])


def count(verdicts: Sequence[ClaimVerdict]) -> str:
    """How many claims have which verdict."""
    words = [v.word for v in verdicts]
    order = [word for name in VERDICTS for word in dict.fromkeys((name, ANSWERS.get(name, name))) if word in words]
    return ", ".join(f"{words.count(word)} {word}" for word in order)


def counts(verdicts: Sequence[ClaimVerdict]) -> Iterator[tuple[str, tuple[str, str, str], list[ClaimVerdict]]]:
    """For the claims of the paper, then for our own questions: a count of verdicts, the heads of a table, verdicts."""
    for name, heads, in_paper in (
        ("Claims of the paper", ("claim of the paper", "what was found", "verdict"), True),
        ("Questions of our own", ("our question", "what was found", "answer"), False),
    ):
        judged = [v for v in verdicts if v.claim.in_paper == in_paper]
        yield f"{name}: {len(judged)}, of which {count(judged)}.", heads, judged


def summary(verdicts: Sequence[ClaimVerdict]) -> str:
    """Two tables, the claims of the paper and our own questions, with a line for each of which something was run.

    README shows them too.
    """
    parts = []
    for line, heads, judged in counts(verdicts):
        parts.append(f"{line}\n")
        if lines := [claim_line(v) for v in judged if v.verdict != NOT_RUN]:
            parts.append(compact_grid(heads, lines))
    return "\n".join(parts)


def claim_line(verdict: ClaimVerdict) -> tuple[str, str, str]:
    """A claim as a line of `summary`: the claim, what was found in words with numbers, the verdict."""
    claim = verdict.claim
    text = LINE_BREAK.join(found_lines(verdict)) or verdict.reason or "No part could be compared."
    return f"{claim.statement} ({claim.where})", text, f"**{verdict.word}**"


def found_lines(verdict: ClaimVerdict) -> list[str]:
    """What was found for a claim, in words with numbers: a line for each measure and for each part that was run."""
    lines, compared = [], [p for p in verdict.parts if p.quantity is not None]
    for name in dict.fromkeys(map(measure, compared)):
        lines.append(f"{name[:1].upper()}{name[1:]}:")
        lines += [found(p) for p in compared if measure(p) == name]
    if lines and len(compared) < len(verdict.parts):
        lines.append(f"Parts not run: {len(verdict.parts) - len(compared)} of {len(verdict.parts)}.")
    return lines


def found(part: PartVerdict) -> str:
    """What was found, in a sentence: both sides, the difference and the verdict; the rule if the claim does not say it.

    The section of the claim has the reason of the verdict too.
    """
    if part.interval is None:
        return f"{brief_subject(part)}: {part.reason}."
    of = "" if part.part.times == 1 else f" ({sides(part)})"
    bounds = "" if part.part.kind == BETTER else f", allowed {rule(part)}"
    return f"{brief_subject(part)}: {ours(part)}; difference{of} {difference(part)}{bounds}: {part.verdict}."


def section(verdict: ClaimVerdict) -> str:
    """The claim with all its parts."""
    claim, name = verdict.claim, "Verdict" if verdict.claim.in_paper else "Answer"
    head = f"### {claim.statement}\n\n{claim.where}. Rule: {claim.rule} "
    head += f"{name}: **{verdict_text(verdict.word, verdict.reason)}**.\n"
    return f"{head}\n{grid(PART_HEADER, map(part_line, verdict.parts))}"
