"""The claims of the paper, and one question of ours, each as parts that an interval over seeds decides.

A part is about the difference between two cells, over the seeds that both cells have. The sign of the difference is
such that the paper claims a positive difference. A part has one of three kinds, each a condition on the 95 % interval:

* `better`: the interval lies above zero.
* `no worse`: the interval lies above minus the margin.
* `on par`: the interval lies between minus the margin and the margin.

A part is reproduced when the condition holds, not reproduced when the interval contradicts it, undecided otherwise. A
claim is reproduced when all its parts are reproduced, not reproduced when at least one part is not reproduced, not run
when no part was run, undecided otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import paper, tasks
from ..paper import HIGH, LOW, PRETRAINING, Cell
from ..spec import methods
from ..store.records import Record
from ..study import measures

TABLE2_POINTS = tuple(int(s) / paper.PAPER_STEPS for s in ("300", "500", "700", "900"))
HALF = 50.0  # character accuracy in percent: a run has memorised half of the characters


@dataclass(frozen=True)
class Measure:
    """The number that a part compares.

    Attributes:
        name: The name in tables.
        read: The number of a record; None where the record does not have the number.
        paper_value: The paper's number for a cell; None where the paper has none.
        stand_in: Whether a smaller scale measures this number in place of the paper's metric.
    """

    name: str
    read: Callable[[Record], float | None]
    higher_is_better: bool
    paper_value: Callable[[Cell], float | None] = lambda cell: None
    stand_in: bool = False


@dataclass(frozen=True)
class ClaimPart:
    """A condition on the difference between `cell` and `reference`.

    Attributes:
        measures: The first measure that both cells have decides.
        kind: "better", "no worse" or "on par".
        margins: A margin for each measure, in the measure's unit; "better" has no margin.
        times: The factor on the reference's numbers; "many more than" means more than 2 times as many.
    """

    label: str
    cell: Cell
    reference: Cell
    measures: tuple[Measure, ...]
    kind: str = "better"
    margins: tuple[float, ...] = ()
    times: float = 1.0


@dataclass(frozen=True)
class Claim:
    """A claim with its parts.

    Attributes:
        statement: The claim in a sentence.
        where: The tables and figures of the paper on which the claim rests.
        rule: What decides the claim, in words.
        stand_ins: The parts that decide where none of `parts` was run.
    """

    name: str
    statement: str
    where: str
    rule: str
    parts: tuple[ClaimPart, ...]
    stand_ins: tuple[ClaimPart, ...] = ()


def final(task: str, name: str) -> Measure:
    """The final metric `name` of a task."""
    metric = tasks.metric(task, name)
    return Measure(
        metric.label,
        lambda r: measures.final(r, name),
        metric.higher_is_better,
        lambda c: paper.printed(c, name),
        bool(metric.stands_for),
    )


def headline(task: str) -> tuple[Measure, ...]:
    """The headline of a task, and the first of its stand-ins if there are any."""
    return tuple(final(task, name) for name in tasks.get(task).headlines[:2])


def table2_points(cell: Cell) -> list[tuple[int, float]]:
    """(step, accuracy in percent) of a cell as Table 2 prints them; empty for a cell that is not in Table 2."""
    return next((list(s.points) for s in paper.figure(1) if s.cell == cell), [])


def _paper_mean(cell: Cell) -> float | None:
    points = table2_points(cell)
    return sum(value for _, value in points) / len(points) if points else None


UUID_POINTS = Measure(
    "mean character accuracy at 30, 50, 70 and 90 % of training",
    lambda r: measures.mean_at(r, "char_accuracy", TABLE2_POINTS),
    True,
    _paper_mean,
)
STEPS_TO_HALF = Measure(
    "steps to 50 % character accuracy",
    lambda r: measures.steps_to(r, "char_accuracy", HALF),
    False,
    lambda cell: measures.crossing(table2_points(cell), HALF),
)
SINGULAR_VALUES = Measure(
    "singular values of dW above 0.1, mean over layers and projections", measures.large_singular_values, True
)


def _uuid(method: str, rank: int | None = None, operator: str | None = None) -> Cell:
    return Cell("uuid", method, rank, operator)


def _pretrain(method: str) -> Cell:
    return Cell("pretrain", method, PRETRAINING)


def _at_both_ranks(task: str, choices: tuple[Measure, ...], kind: str, margins: tuple[float, ...]) -> list[ClaimPart]:
    return [
        ClaimPart(f"{task}, r = {r}: MoRA, LoRA", Cell(task, "mora", r), Cell(task, "lora", r), choices, kind, margins)
        for r in (LOW, HIGH)
    ]


def _at_one_scale(task: str, rank: int) -> Cell:
    return Cell(task, "lora", rank, options=paper.alpha_2r(rank))


def _order(better: str, worse: str) -> ClaimPart:
    label = f"{PERPLEXITY[0].name}: {methods.label(better)} below {methods.label(worse)}"
    return ClaimPart(label, _pretrain(better), _pretrain(worse), PERPLEXITY)


def _against_truncation(task: str, measure: Measure) -> tuple[ClaimPart, ...]:
    return tuple(
        ClaimPart(
            f"{task}, r = {rank}: {operator}, truncation",
            Cell(task, "mora", rank, operator),
            Cell(task, "mora", rank, "truncation"),
            (measure,),
        )
        for operator in ("sharing", "decouple", "rotation")
        for rank in (LOW, HIGH)
    )


PERPLEXITY = headline("pretrain")
PAR_POINTS, PAR_BITS, KEEP_UP = 1.0, 0.02, 5.0

CLAIMS = (
    Claim(
        "low-rank-limit",
        "Low-rank LoRA cannot memorise UUIDs as full fine-tuning does.",
        "Table 2, Figure 2",
        "FFT's mean accuracy over the points of Table 2 is above that of LoRA at r = 8.",
        (ClaimPart("FFT, LoRA at r = 8", _uuid("fft"), _uuid("lora", LOW), (UUID_POINTS,)),),
    ),
    Claim(
        "fewer-steps",
        "MoRA needs fewer steps than LoRA to memorise UUIDs at equal parameters.",
        "Table 2, Figure 3",
        "MoRA needs fewer steps until 50 % of the characters are right, at both ranks. The step is interpolated; for a "
        "run that never reaches 50 % it is the last step.",
        tuple(_at_both_ranks("uuid", (STEPS_TO_HALF,), "better", ())),
    ),
    Claim(
        "keeps-up-with-fft",
        "High-rank MoRA keeps up with full fine-tuning on UUIDs.",
        "Table 2, Figure 3",
        f"MoRA's mean accuracy over the points of Table 2 at r = 256 is no more than {KEEP_UP:g} points below FFT's.",
        (ClaimPart("MoRA at r = 256, FFT", _uuid("mora", HIGH), _uuid("fft"), (UUID_POINTS,), "no worse", (KEEP_UP,)),),
    ),
    Claim(
        "instruction-par",
        "On instruction tuning MoRA and LoRA are on par.",
        "Table 1",
        f"5-shot MMLU differs by at most {PAR_POINTS:g} point (stand-in: held-out answers by at most "
        f"{PAR_BITS:g} bits a byte), at both ranks.",
        tuple(_at_both_ranks("instruct", headline("instruct"), "on par", (PAR_POINTS, PAR_BITS))),
    ),
    Claim(
        "math-par",
        "On mathematical reasoning MoRA and LoRA are on par.",
        "Table 1",
        f"GSM8K differs by at most {PAR_POINTS:g} point (stand-in: held-out answers by at most "
        f"{PAR_BITS:g} bits a byte), at both ranks.",
        tuple(_at_both_ranks("math", headline("math"), "on par", (PAR_POINTS, PAR_BITS))),
    ),
    Claim(
        "continual-pretraining",
        "In continual pretraining MoRA is ahead of LoRA.",
        "Tables 1, 6, 7",
        "The averages of BioMed and Finance (stand-in: held-out perplexity) are better for MoRA, at both ranks.",
        tuple(
            part
            for task in ("biomed", "finance")
            for part in _at_both_ranks(task, headline(task), "better", ())
        ),
    ),
    Claim(
        "pretraining-order",
        "In pretraining ReMoRA is better than MoRA, MoRA is better than ReLoRA, and ReLoRA is better than LoRA.",
        "Table 3",
        "Each of the three differences in perplexity has the paper's sign.",
        (_order("remora", "mora"), _order("mora", "relora"), _order("relora", "lora")),
    ),
    Claim(
        "more-singular-values",
        "MoRA's update has many more large singular values than LoRA's.",
        "Figure 5",
        "MoRA has more than twice as many singular values above 0.1 as LoRA, and ReMoRA more than twice as many as "
        "ReLoRA.",
        tuple(
            ClaimPart(
                f"{methods.label(a)}, twice {methods.label(b)}",
                _pretrain(a), _pretrain(b), (SINGULAR_VALUES,), times=2.0,
            )
            for a, b in (("mora", "lora"), ("remora", "relora"))
        ),
    ),
    Claim(
        "operators-beat-truncation",
        "Sharing, decouple and rotation beat truncation.",
        "Table 4",
        "GSM8K (stand-in: mean UUID accuracy over the points of Table 2) is better than with truncation, at both "
        "ranks.",
        _against_truncation("math", final("math", "gsm8k")),
        _against_truncation("uuid", Measure(UUID_POINTS.name, UUID_POINTS.read, True, stand_in=True)),
    ),
    Claim(
        "ahead-at-one-scale",
        "MoRA is ahead of LoRA at a high rank even when LoRA's alpha is 2 r, not r / 2 (our question).",
        "Tables 2, 3",
        "MoRA's mean accuracy over the points of Table 2 at r = 256, and its perplexity in Table 3, are better than "
        "those of LoRA with alpha = 2 r.",
        (
            ClaimPart("uuid, r = 256: MoRA, LoRA", _uuid("mora", HIGH), _at_one_scale("uuid", HIGH), (UUID_POINTS,)),
            ClaimPart(
                "perplexity: MoRA below LoRA", _pretrain("mora"), _at_one_scale("pretrain", PRETRAINING), PERPLEXITY
            ),
        ),
    ),
)  # fmt: skip
