"""The claims of the paper, and questions of our own, each as parts that an interval over seeds decides.

A part compares a side with a reference, over the seeds that both have. It has one of three kinds, each a condition on
the 95 % interval of the advantage of the side over the reference:

* `better`: the advantage is above zero.
* `no worse`: the advantage is above minus the margin.
* `on par`: the advantage is between minus the margin and the margin.

`report.verdicts` judges them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from ..spec import methods
from . import published
from .cell import Cell, alpha_2r
from .published import HIGH, LOW, PRETRAINING
from .quantities import (
    CurveMean,
    FinalMetric,
    LargeSingularValues,
    LogarithmOfFinal,
    Quantity,
    StepsTo,
    final,
    headline,
)

BETTER, NO_WORSE, ON_PAR = "better", "no worse", "on par"
HALF = 50.0  # character accuracy in percent: a run has memorised half of the characters


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: The name in sentences.
        cell: The cell whose runs are compared.
        over: Where it is given, what is compared is how much better `cell` is than this cell.
        printed: The cell for which the paper has a number, where the runs have other settings; None: `cell`.
    """

    name: str
    cell: Cell
    over: Cell | None = None
    printed: Cell | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells whose runs give the numbers of the side."""
        return (self.cell,) if self.over is None else (self.cell, self.over)


@dataclass(frozen=True)
class ClaimPart:
    """A condition on the difference between a side and a reference.

    Attributes:
        subject: What the two sides have in common, such as the task.
        quantities: The first quantity that both sides have decides.
        kind: `better`, `no worse` or `on par`.
        margins: A margin for each quantity, in its unit; `better` has no margin.
        times: The factor on the reference's numbers; "many more than" means more than 2 times as many.
        ceiling: A side above whose mean nothing is expected: where `times` the reference is above this mean, no side
            could fulfil the rule, and the part is undecided.
    """

    subject: str
    side: Side
    reference: Side
    quantities: tuple[Quantity, ...]
    kind: str = BETTER
    margins: tuple[float, ...] = ()
    times: float = 1.0
    ceiling: Side | None = None

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


TABLE2_POINTS = tuple(int(step) / published.STEPS for step in published.paper_json()["table2"]["columns"])
UUID_POINTS = CurveMean(
    "mean character accuracy at 30, 50, 70 and 90 % of training", "%", "char_accuracy", True, fractions=TABLE2_POINTS
)
UUID_LOSS = CurveMean(
    "mean training loss at 60, 70, 80 and 90 % of training, nats a token", "", "loss", False,
    fractions=(0.6, 0.7, 0.8, 0.9), figure="figure2",
)  # fmt: skip
STEPS_TO_HALF = StepsTo("steps to 50 % character accuracy", "steps", "char_accuracy", False, threshold=HALF)
SINGULAR_VALUES = LargeSingularValues(
    "singular values of dW above 0.1, mean over layers and projections", "", "spectrum", True
)
PERPLEXITY = headline("pretrain")
PAR_POINTS, PAR_BITS, KEEP_UP = 1.0, 0.02, 5.0
ABOUT_POINTS, ABOUT_NATS = 1.5, 0.05  # "about as good": the paper's own differences are up to 1.3 points
FINE_TUNING = ("instruct", "math", "biomed", "finance")

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


def lora_at(rank: int) -> Side:
    """LoRA on UUIDs with alpha = 2 r, at the rank that stands for a rank of the paper, which is its name.

    The protocol has alpha = 2 r at each rank but the highest.
    """
    printed = Cell("uuid", "lora", rank)
    cell = lora_alpha_2r("uuid", rank).cell if rank == HIGH else printed
    return Side(f"LoRA (r = {rank} in the paper)", cell, printed=printed)


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
) -> ClaimPart:
    """A part that compares two methods at one rank."""
    one, other = side(task, method, rank), side(task, reference, rank)
    return ClaimPart(SUBJECTS[task], one, other, quantities, kind, margins)


def _at_both_ranks(
    task: str, quantities: tuple[Quantity, ...], kind: str = BETTER, margins: tuple[float, ...] = ()
) -> tuple[ClaimPart, ...]:
    return tuple(_versus(task, "mora", "lora", rank, quantities, kind, margins) for rank in (LOW, HIGH))


def _pretrain(method: str, reference: str, quantities: tuple[Quantity, ...] = PERPLEXITY) -> ClaimPart:
    return _versus("pretrain", method, reference, PRETRAINING, quantities)


def _against_truncation(task: str, quantity: Quantity) -> tuple[ClaimPart, ...]:
    return tuple(
        ClaimPart(SUBJECTS[task], operator(task, name, rank), operator(task, "truncation", rank), (quantity,))
        for name in ("sharing", "decouple", "rotation")
        for rank in (LOW, HIGH)
    )


def _rotation(task: str, quantity: Quantity, margin: float) -> tuple[ClaimPart, ...]:
    def part(other: str, rank: int, kind: str) -> ClaimPart:
        sides = operator(task, "rotation", rank), operator(task, other, rank)
        return ClaimPart(SUBJECTS[task], *sides, (quantity,), kind, (margin,) if kind == ON_PAR else ())

    best = tuple(part(other, LOW, BETTER) for other in ("truncation", "sharing", "decouple"))
    return best + tuple(part(other, HIGH, ON_PAR) for other in ("sharing", "decouple"))


def _about_lora(method: str, task: str, rank: int) -> ClaimPart:
    """A method is on par with LoRA. Perplexities are compared by their logarithms, as one margin does not fit all."""
    metric, measured = headline(task)
    stand_in: Quantity = measured
    margin = PAR_BITS
    if measured.metric == "heldout_perplexity":
        stand_in = LogarithmOfFinal("held-out loss, nats a token", "", measured.metric, False, stand_in=True)
        margin = ABOUT_NATS
    return _versus(task, method, "lora", rank, (metric, stand_in), ON_PAR, (ABOUT_POINTS, margin))


def _is_published(method: str, rank: int, metric: str) -> bool:
    """Whether Table 1 has a value of the metric for a method at a rank."""
    rows = (row for row in published.rows("table1") if (row.method, row.rank) == (method, rank))
    return any(row.values.get(metric) is not None for row in rows)


def _cell(method: str) -> Cell:
    return Cell("pretrain", method, PRETRAINING)


FULL_TRAINING = Side("full training", Cell("pretrain", "fft"))
UUID_STAND_IN = CurveMean(
    UUID_POINTS.name, UUID_POINTS.unit, UUID_POINTS.metric, True, stand_in=True, fractions=TABLE2_POINTS
)
GSM8K: FinalMetric = final("math", "gsm8k")

UUID_OPERATOR = (
    "MoRA has the operator that the paper describes for UUIDs, sharing. The paper cites the equation of another one, "
    "decouple; the table uuid_low_rank compares all operators with LoRA."
)

CLAIMS = (
    Claim(
        "low-rank-limit",
        "Low-rank LoRA cannot memorise UUIDs as full fine-tuning does.",
        "Table 2, Figure 2",
        "FFT's mean accuracy over the points of Table 2 is above that of LoRA at the low rank.",
        (ClaimPart(SUBJECTS["uuid"], side("uuid", "fft"), side("uuid", "lora", LOW, named=True), (UUID_POINTS,)),),
    ),
    Claim(
        "higher-rank-memorises",
        "The higher the rank of LoRA, the better it memorises UUIDs.",
        "Figure 2",
        "At each rank of Figure 2, LoRA's training loss is below that at the next lower rank. Every rank has "
        "alpha = 2 r here. The paper has alpha = r / 2 at r = 256, so two things differ between its two highest ranks; "
        "a question of our own asks about that alpha.",
        tuple(
            ClaimPart(SUBJECTS["uuid"], lora_at(higher), lora_at(lower), (UUID_LOSS,))
            for lower, higher in itertools.pairwise((LOW, 16, 32, 64, 128, HIGH))
        ),
    ),
    Claim(
        "fewer-steps",
        "MoRA needs fewer steps than LoRA to memorise UUIDs at equal parameters.",
        "Table 2, Figure 3",
        "MoRA needs fewer steps until 50 % of the characters are right, at both ranks. The step is interpolated "
        "between the steps that were measured. Where the slower method never gets there, its number is the last step, "
        "so the difference is at least as large as the one shown. A seed with which neither gets there counts as no "
        f"difference. {UUID_OPERATOR}",
        _at_both_ranks("uuid", (STEPS_TO_HALF,)),
    ),
    Claim(
        "memorises-more",
        "MoRA memorises UUIDs better than LoRA at equal parameters.",
        "Table 2",
        f"MoRA's mean accuracy over the points of Table 2 is above LoRA's, at both ranks. {UUID_OPERATOR}",
        _at_both_ranks("uuid", (UUID_POINTS,)),
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
        "high-rank-math",
        "On mathematical reasoning LoRA is better at the high rank than at the low rank.",
        "Table 1",
        "GSM8K (stand-in: the loss on held-out answers) is better at the high rank.",
        (
            ClaimPart(
                SUBJECTS["math"],
                side("math", "lora", HIGH, named=True),
                side("math", "lora", LOW, named=True),
                headline("math"),
            ),
        ),
    ),
    *(
        Claim(
            f"{method.replace('_', '-')}-par",
            f"In fine-tuning {methods.label(method)} is about as good as LoRA.",
            "Table 1",
            f"The headline of each of the four tasks differs by at most {ABOUT_POINTS:g} points (stand-ins: held-out "
            f"answers by at most {PAR_BITS:g} bits a byte, held-out text by at most {ABOUT_NATS:g} nats a token), at "
            "both ranks. The paper has no such sentence: the claim is read from the headlines of Table 1.",
            tuple(_about_lora(method, task, rank) for task in FINE_TUNING for rank in (LOW, HIGH)),
        )
        for method in ("lora_plus", "asylora", "dora")
    ),
    Claim(
        "relora-below-lora",
        "In fine-tuning ReLoRA is worse than LoRA.",
        "Table 1",
        "The headline of each task (stand-in: the loss or perplexity of held-out rows) is better for LoRA, at the "
        "ranks for which the paper has it.",
        tuple(
            _versus(task, "lora", "relora", rank, headline(task))
            for task in FINE_TUNING
            for rank in (LOW, HIGH)
            if _is_published("relora", rank, headline(task)[0].metric)
        ),
    ),
    Claim(
        "continual-pretraining",
        "In continual pretraining MoRA is ahead of LoRA.",
        "Tables 1, 6, 7",
        "The averages of BioMed and Finance (stand-in: held-out perplexity) are better for MoRA, at both ranks.",
        tuple(part for task in ("biomed", "finance") for part in _at_both_ranks(task, headline(task))),
    ),
    Claim(
        "fft-ahead",
        "In continual pretraining full fine-tuning stays ahead of MoRA and LoRA.",
        "Tables 1, 6, 7",
        "The averages of BioMed and Finance (stand-in: held-out perplexity) are better for FFT than for both methods "
        "at the high rank.",
        tuple(
            ClaimPart(SUBJECTS[task], side(task, "fft"), side(task, method, HIGH, named=True), headline(task))
            for task in ("biomed", "finance")
            for method in ("mora", "lora")
        ),
    ),
    Claim(
        "pretraining-order",
        "In pretraining ReMoRA is better than MoRA, MoRA is better than ReLoRA, and ReLoRA is better than LoRA.",
        "Table 3",
        "Each of the three differences in perplexity has the paper's sign.",
        (_pretrain("remora", "mora"), _pretrain("mora", "relora"), _pretrain("relora", "lora")),
    ),
    Claim(
        "merging-helps-mora-more",
        "In pretraining, merging and starting again helps MoRA more than LoRA.",
        "Table 3",
        "The perplexity that ReMoRA gains over MoRA is more than what ReLoRA gains over LoRA.",
        (
            ClaimPart(
                f"{SUBJECTS['pretrain']}, gain",
                Side("ReMoRA over MoRA", _cell("remora"), over=_cell("mora")),
                Side("ReLoRA over LoRA", _cell("relora"), over=_cell("lora")),
                PERPLEXITY,
            ),
        ),
    ),
    Claim(
        "more-singular-values",
        "MoRA's update has many more large singular values than LoRA's.",
        "Figure 5",
        "MoRA has more than twice as many singular values above 0.1 as LoRA, and ReMoRA more than twice as many as "
        "ReLoRA; the paper prints no numbers, and the factor is ours. The shapes set bounds: LoRA's update has at most "
        "r such values, MoRA's at most r_hat, and no update more than the width of its layer. So the first part nearly "
        "follows from the shapes. A part is undecided where twice the reference is more than full training has.",
        tuple(
            replace(_pretrain(a, b, (SINGULAR_VALUES,)), times=2.0, ceiling=FULL_TRAINING)
            for a, b in (("mora", "lora"), ("remora", "relora"))
        ),
    ),
    Claim(
        "singular-values-order",
        "The numbers of large singular values follow the perplexities of Table 3: ReMoRA, MoRA, ReLoRA, LoRA.",
        "Figure 5, Table 3",
        "Each method has more singular values above 0.1 than the next one, and a lower perplexity. The first half "
        "nearly follows from the shapes and the restarts; the second half says whether more of them go with a lower "
        "perplexity.",
        tuple(
            _pretrain(more, fewer, quantities)
            for quantities in ((SINGULAR_VALUES,), PERPLEXITY)
            for more, fewer in itertools.pairwise(("remora", "mora", "relora", "lora"))
        ),
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
        "rotation-at-low-rank",
        "Rotation is the best operator at the low rank, and level with sharing and decouple at the high rank.",
        "Table 4",
        f"At the low rank GSM8K is better with rotation than with each other operator; at the high rank it differs "
        f"from sharing and decouple by at most {PAR_POINTS:g} point (stand-in: mean UUID accuracy over the points of "
        f"Table 2, at most {KEEP_UP:g} points).",
        _rotation("math", GSM8K, PAR_POINTS),
        _rotation("uuid", UUID_STAND_IN, KEEP_UP),
    ),
    Claim(
        "ahead-at-one-scale",
        "Is MoRA ahead of LoRA at a high rank even when LoRA's alpha is 2 r, not r / 2?",
        "Tables 2, 3",
        "MoRA's mean accuracy over the points of Table 2 at the high rank, its steps to 50 % of the characters, and "
        "its perplexity in Table 3, are better than those of LoRA with alpha = 2 r.",
        (
            *(
                ClaimPart(SUBJECTS["uuid"], side("uuid", "mora", HIGH), lora_alpha_2r("uuid", HIGH), (quantity,))
                for quantity in (UUID_POINTS, STEPS_TO_HALF)
            ),
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
        "highest-rank-at-half-alpha",
        "Does LoRA memorise UUIDs better at r = 256, with the alpha that the paper has there (r / 2), than at r = 128?",
        "Figure 2",
        "LoRA's training loss at r = 256 with alpha = r / 2 is below that at r = 128 with alpha = 2 r.",
        (
            ClaimPart(
                SUBJECTS["uuid"],
                Side("LoRA (r = 256 in the paper, alpha = r / 2)", Cell("uuid", "lora", HIGH)),
                lora_at(128),
                (UUID_LOSS,),
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
                FULL_TRAINING,
                PERPLEXITY,
            )
            for method in ("mora", "remora")
        ),
        in_paper=False,
    ),
)
