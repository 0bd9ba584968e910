"""FINDINGS.md: for each claim of the paper and one question of ours, the rule, the numbers and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec import scales as scales_of
from ..study import statistics
from ..study.fill import Results
from .markdown import grid
from .verdicts import VERDICTS, ClaimVerdict, PartVerdict, judge_all
from .wording import DASH

RULE_TEXT = (
    f"Every difference is judged by the {statistics.RULE}. Its sign is such that the paper claims a positive "
    "difference, an advantage of A over B. Every run has the learning rate that the search of its own cell "
    "selected. A part of a claim is reproduced when the interval fulfils the rule, not reproduced when the "
    "interval contradicts the rule, undecided otherwise; with fewer than two common seeds a part is always "
    "undecided. A claim is reproduced when all its parts are reproduced, not reproduced when at least one part is "
    "not reproduced, not run when no part was run, undecided otherwise. The intervals are not corrected for the "
    "number of comparisons. A stand-in is what a smaller scale measures in place of the paper's metric."
)
HEADER = f"""# Findings

`python scripts/make_tables.py` generates this file from the records in `runs/`. Do not edit it by hand.

{RULE_TEXT}
"""


def number(value: float | None) -> str:
    """Three significant digits below one, else two decimal places; a dash for None."""
    return DASH if value is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def interval(part: PartVerdict) -> str:
    """`difference [low, high]` of a part; a dash where the part was not run."""
    difference = part.interval
    if difference is None:
        return DASH
    if difference.low is None or difference.high is None:
        return f"{number(difference.mean)} (no interval)"
    return f"{number(difference.mean)} [{number(difference.low)}, {number(difference.high)}]"


def bound(part: PartVerdict) -> str:
    """The condition on the interval."""
    if part.part.kind == "better":
        return "> 0"
    return f"> {-part.margin:g}" if part.part.kind == "no worse" else f"within ±{part.margin:g}"


def measure_name(part: PartVerdict) -> str:
    """The name of the measure that decided, and whether it is a stand-in."""
    if part.measure is None:
        return DASH
    return part.measure.name + (" (stand-in)" if part.measure.stand_in else "")


PART_HEADER = ("cells: A, B", "measure", "paper: A, B", "ours: A, B", "advantage of A [95 %]", "n", "rule", "verdict")


def pair(a: float | None, b: float | None) -> str:
    """Two numbers with a comma; a dash where one is missing."""
    return DASH if a is None or b is None else f"{number(a)}, {number(b)}"


def paper_pair(part: PartVerdict) -> str:
    """The paper's numbers for both cells: of the measure that decided, else of the first measure."""
    measure = part.measure or part.part.measures[0]
    return pair(measure.paper_value(part.part.cell), measure.paper_value(part.part.reference))


def ours(part: PartVerdict) -> str:
    """Our means of both cells, over the seeds that both cells have."""
    return pair(part.mean, part.reference_mean)


def part_line(part: PartVerdict) -> tuple[str, ...]:
    """A part as a line of a table, in the order of PART_HEADER."""
    n = str(part.interval.n) if part.interval else "0"
    verdict = part.verdict + (f" ({part.reason})" if part.reason else "")
    return part.part.label, measure_name(part), paper_pair(part), ours(part), interval(part), n, bound(part), verdict


def scales_with_findings(scales: Sequence[str]) -> list[str]:
    """The scales that FINDINGS.md covers: all but smoke, whose runs are too short to learn; laptop if none is left."""
    return [s for s in scales_of.names() if s in scales and s != "smoke"] or ["laptop"]


def page(all_results: Sequence[Results]) -> str:
    """The text of FINDINGS.md, with a section for each scale."""
    parts = [HEADER]
    for results in all_results:
        verdicts = judge_all(results)
        counts = ", ".join(f"{sum(v.verdict == name for v in verdicts)} {name}" for name in VERDICTS)
        parts.append(f"## Scale: {results.scale}\n\n{len(verdicts)} claims: {counts}.\n")
        parts.append(summary(verdicts))
        parts += [section(v) for v in verdicts]
    return "\n".join(parts)


def summary(verdicts: Sequence[ClaimVerdict]) -> str:
    """A table with a line for each claim: the paper's numbers, ours, the seeds and the verdict. README shows it too."""
    lines = []
    for v in verdicts:
        judged = [p for p in v.parts if p.interval]
        paper_values = [text for p in judged or v.parts if (text := paper_pair(p)) != DASH]
        n = sorted({p.interval.n for p in judged if p.interval})
        lines.append(
            (
                v.claim.statement,
                v.claim.where,
                "; ".join(paper_values) or DASH,
                "; ".join(map(ours, judged)) or DASH,
                "; ".join(map(interval, judged)) or DASH,
                ", ".join(map(str, n)) or "0",
                f"**{v.verdict}**",
            )
        )
    return grid(("claim", "where", "paper: A, B", "ours: A, B", "advantage of A [95 %]", "n", "verdict"), lines)


def section(verdict: ClaimVerdict) -> str:
    """The claim with all its parts."""
    claim = verdict.claim
    head = f"### {claim.statement}\n\n{claim.where}. Rule: {claim.rule} Verdict: **{verdict.verdict}**.\n"
    return f"{head}\n{grid(PART_HEADER, map(part_line, verdict.parts))}"
