"""The claims of the paper, and questions of our own, each as parts that an interval over seeds decides.

A part compares a side with a reference, over the seeds that both have. It has one of three kinds, each a condition on
the 95 % interval of the advantage of the side over the reference:

* `better`: the advantage is above zero.
* `no worse`: the advantage is above minus the margin.
* `on par`: the advantage is between minus the margin and the margin.

`report.verdicts` judges them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import methods
from .layout import Cell, alpha_2r, table
from .names import HIGH, LOW, PRETRAINING
from .quantities import CurveMean, FinalMetric, LargeSingularValues, Quantity, StepsTo, final, headline

BETTER, NO_WORSE, ON_PAR = "better", "no worse", "on par"
HALF = 50.0  # character accuracy in percent: a run has memorised half of the characters


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: The name in sentences.
        cell: The cell whose runs are compared.
        over: Where it is given, what is compared is how much better `cell` is than this cell.
    """

    name: str
    cell: Cell
    over: Cell | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells whose runs give the numbers of the side."""
        return (self.cell,) if self.over is None else (self.cell, self.over)


def side_value(side: Side, quantity: Quantity) -> float | None:
    """The paper's number for a side; None where it has none."""
    values = [quantity.paper_value(cell) for cell in side.cells]
    if side.over is None or None in values:
        return values[0] if side.over is None else None
    value, over = (v for v in values if v is not None)
    return value - over if quantity.higher_is_better else over - value


@dataclass(frozen=True)
class ClaimPart:
    """A condition on the difference between a side and a reference.

    Attributes:
        subject: What the two sides have in common, such as the task.
        quantities: The first quantity that both sides have decides.
        kind: `better`, `no worse` or `on par`.
        margins: A margin for each quantity, in its unit; `better` has no margin.
        times: The factor on the reference's numbers; "many more than" means more than 2 times as many.
    """

    subject: str
    side: Side
    reference: Side
    quantities: tuple[Quantity, ...]
    kind: str = BETTER
    margins: tuple[float, ...] = ()
    times: float = 1.0

    @property
    def paper_rank(self) -> int | None:
        """The paper's rank of both sides; None where they have none, or different ranks."""
        ranks = {cell.rank for side in (self.side, self.reference) for cell in side.cells}
        return ranks.pop() if len(ranks) == 1 else None

    def higher_is_better(self, quantity: Quantity) -> bool:
        """Whether a positive difference, side less reference, is an advantage of the side."""
        return quantity.higher_is_better or self.side.over is not None


@dataclass(frozen=True)
class Claim:
    """A claim with its parts.

    Attributes:
        statement: The claim in a sentence, or our question.
        where: The tables and figures of the paper on which the claim rests.
        rule: What decides the claim, in words.
        stand_ins: The parts that decide where none of `parts` was run.
        in_paper: Whether the paper makes the claim; False for a question of our own.
    """

    name: str
    statement: str
    where: str
    rule: str
    parts: tuple[ClaimPart, ...]
    stand_ins: tuple[ClaimPart, ...] = ()
    in_paper: bool = True


TABLE2_POINTS = tuple(column.at for column in table(2).columns if column.at is not None)
UUID_POINTS = CurveMean(
    "mean character accuracy at 30, 50, 70 and 90 % of training", "%", "char_accuracy", True, fractions=TABLE2_POINTS
)
STEPS_TO_HALF = StepsTo("steps to 50 % character accuracy", "steps", "char_accuracy", False, threshold=HALF)
SINGULAR_VALUES = LargeSingularValues(
    "singular values of dW above 0.1, mean over layers and projections", "", "spectrum", True
)
PERPLEXITY = headline("pretrain")
PAR_POINTS, PAR_BITS, KEEP_UP = 1.0, 0.02, 5.0

SUBJECTS = {
    "uuid": "UUIDs",
    "instruct": "instruction tuning",
    "math": "mathematics",
    "biomed": "biomedicine",
    "finance": "finance",
    "pretrain": "pretraining",
}
RANK_NAMES = {LOW: "low rank", HIGH: "high rank"}


def side(task: str, method: str, rank: int | None = None, *, named: bool = False) -> Side:
    """A method on a task; `named`: with its rank in its name."""
    name = methods.label(method) + (f" at the {RANK_NAMES[rank]}" if named and rank is not None else "")
    return Side(name, Cell(task, method, rank))


def operator(task: str, name: str, rank: int) -> Side:
    """MoRA with an operator."""
    return Side(name, Cell(task, "mora", rank, name))


def lora_alpha_2r(task: str, rank: int) -> Side:
    """LoRA with alpha = 2 r."""
    return Side("LoRA with alpha = 2 r", Cell(task, "lora", rank, options=alpha_2r(rank)))


def _versus(
    task: str,
    method: str,
    reference: str,
    rank: int | None,
    quantities: tuple[Quantity, ...],
    kind: str = BETTER,
    margins: tuple[float, ...] = (),
    times: float = 1.0,
) -> ClaimPart:
    """A part that compares two methods at one rank."""
    one, other = side(task, method, rank), side(task, reference, rank)
    return ClaimPart(SUBJECTS[task], one, other, quantities, kind, margins, times)


def _at_both_ranks(
    task: str, quantities: tuple[Quantity, ...], kind: str = BETTER, margins: tuple[float, ...] = ()
) -> tuple[ClaimPart, ...]:
    return tuple(_versus(task, "mora", "lora", rank, quantities, kind, margins) for rank in (LOW, HIGH))


def _pretrain(
    method: str, reference: str, quantities: tuple[Quantity, ...] = PERPLEXITY, times: float = 1.0
) -> ClaimPart:
    return _versus("pretrain", method, reference, PRETRAINING, quantities, times=times)


def _against_truncation(task: str, quantity: Quantity) -> tuple[ClaimPart, ...]:
    return tuple(
        ClaimPart(SUBJECTS[task], operator(task, name, rank), operator(task, "truncation", rank), (quantity,))
        for name in ("sharing", "decouple", "rotation")
        for rank in (LOW, HIGH)
    )


UUID_STAND_IN = CurveMean(
    UUID_POINTS.name, UUID_POINTS.unit, UUID_POINTS.metric, True, stand_in=True, fractions=TABLE2_POINTS
)
GSM8K: FinalMetric = final("math", "gsm8k")

CLAIMS = (
    Claim(
        "low-rank-limit",
        "Low-rank LoRA cannot memorise UUIDs as full fine-tuning does.",
        "Table 2, Figure 2",
        "FFT's mean accuracy over the points of Table 2 is above that of LoRA at the low rank.",
        (ClaimPart(SUBJECTS["uuid"], side("uuid", "fft"), side("uuid", "lora", LOW, named=True), (UUID_POINTS,)),),
    ),
    Claim(
        "fewer-steps",
        "MoRA needs fewer steps than LoRA to memorise UUIDs at equal parameters.",
        "Table 2, Figure 3",
        "MoRA needs fewer steps until 50 % of the characters are right, at both ranks. The step is interpolated. Where "
        "one of the two methods never gets there, its number is the last step, so the difference is at least as large "
        "as the one shown. A seed with which neither gets there counts for neither and is left out.",
        _at_both_ranks("uuid", (STEPS_TO_HALF,)),
    ),
    Claim(
        "keeps-up-with-fft",
        "High-rank MoRA keeps up with full fine-tuning on UUIDs.",
        "Table 2, Figure 3",
        f"MoRA's mean accuracy over the points of Table 2 at the high rank is no more than {KEEP_UP:g} points below "
        "FFT's.",
        (
            ClaimPart(
                SUBJECTS["uuid"],
                side("uuid", "mora", HIGH, named=True),
                side("uuid", "fft"),
                (UUID_POINTS,),
                NO_WORSE,
                (KEEP_UP,),
            ),
        ),
    ),
    Claim(
        "instruction-par",
        "On instruction tuning MoRA and LoRA are on par.",
        "Table 1",
        f"5-shot MMLU differs by at most {PAR_POINTS:g} point (stand-in: held-out answers by at most "
        f"{PAR_BITS:g} bits a byte), at both ranks.",
        _at_both_ranks("instruct", headline("instruct"), ON_PAR, (PAR_POINTS, PAR_BITS)),
    ),
    Claim(
        "math-par",
        "On mathematical reasoning MoRA and LoRA are on par.",
        "Table 1",
        f"GSM8K differs by at most {PAR_POINTS:g} point (stand-in: held-out answers by at most "
        f"{PAR_BITS:g} bits a byte), at both ranks.",
        _at_both_ranks("math", headline("math"), ON_PAR, (PAR_POINTS, PAR_BITS)),
    ),
    Claim(
        "continual-pretraining",
        "In continual pretraining MoRA is ahead of LoRA.",
        "Tables 1, 6, 7",
        "The averages of BioMed and Finance (stand-in: held-out perplexity) are better for MoRA, at both ranks.",
        tuple(part for task in ("biomed", "finance") for part in _at_both_ranks(task, headline(task))),
    ),
    Claim(
        "pretraining-order",
        "In pretraining ReMoRA is better than MoRA, MoRA is better than ReLoRA, and ReLoRA is better than LoRA.",
        "Table 3",
        "Each of the three differences in perplexity has the paper's sign.",
        (_pretrain("remora", "mora"), _pretrain("mora", "relora"), _pretrain("relora", "lora")),
    ),
    Claim(
        "more-singular-values",
        "MoRA's update has many more large singular values than LoRA's.",
        "Figure 5",
        "MoRA has more than twice as many singular values above 0.1 as LoRA, and ReMoRA more than twice as many as "
        "ReLoRA.",
        tuple(_pretrain(a, b, (SINGULAR_VALUES,), times=2.0) for a, b in (("mora", "lora"), ("remora", "relora"))),
    ),
    Claim(
        "operators-beat-truncation",
        "Sharing, decouple and rotation beat truncation.",
        "Table 4",
        "GSM8K (stand-in: mean UUID accuracy over the points of Table 2) is better than with truncation, at both "
        "ranks.",
        _against_truncation("math", GSM8K),
        _against_truncation("uuid", UUID_STAND_IN),
    ),
    Claim(
        "ahead-at-one-scale",
        "Is MoRA ahead of LoRA at a high rank even when LoRA's alpha is 2 r, not r / 2?",
        "Tables 2, 3",
        "MoRA's mean accuracy over the points of Table 2 at the high rank, and its perplexity in Table 3, are better "
        "than those of LoRA with alpha = 2 r.",
        (
            ClaimPart(SUBJECTS["uuid"], side("uuid", "mora", HIGH), lora_alpha_2r("uuid", HIGH), (UUID_POINTS,)),
            ClaimPart(
                SUBJECTS["pretrain"],
                side("pretrain", "mora", PRETRAINING),
                lora_alpha_2r("pretrain", PRETRAINING),
                PERPLEXITY,
            ),
        ),
        in_paper=False,
    ),
    Claim(
        "below-full-training",
        "In pretraining, do MoRA and ReMoRA reach a lower perplexity than full training?",
        "Table 3",
        "The perplexity of MoRA, and that of ReMoRA, is below that of full training.",
        tuple(
            ClaimPart(
                SUBJECTS["pretrain"],
                side("pretrain", method, PRETRAINING),
                Side("full training", Cell("pretrain", "fft")),
                PERPLEXITY,
            )
            for method in ("mora", "remora")
        ),
        in_paper=False,
    ),
)
