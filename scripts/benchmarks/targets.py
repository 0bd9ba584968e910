"""What the project promises about speed, and whether a measurement keeps each promise. The worst case counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import growth, stages

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        what: What is compared with what.
        part: The part of the benchmark that measures it.
        limit: The highest value that keeps the promise, or, where `at_most` is False, the lowest.
        pick: The value of a row, or None where the row is about something else.
        reason: Why the target is missed, as profiling shows; empty where the target should be met.
        at_most: Whether the value must be at most `limit`, or at least.
        unit: The unit of the value and of the limit.
    """

    what: str
    part: str
    limit: float
    pick: Callable[[Row], Row | None]
    reason: str = ""
    at_most: bool = True
    unit: str = ""

    def worst(self, rows: list[Row]) -> tuple[Row, Row] | None:
        """The row of the worst case and its value; None where nothing was measured."""
        measurements = [(row, value) for row in rows if (value := self.pick(row))]
        choose = max if self.at_most else min
        return choose(measurements, key=lambda pair: pair[1]["value"]) if measurements else None

    def met(self, value: float) -> bool:
        """Whether a value keeps the promise."""
        return value <= self.limit if self.at_most else value >= self.limit


def overhead(r: int, *methods: str) -> Callable[[Row], Row | None]:
    return lambda row: row["against_lora"] if row["r"] == r and row["method"] in methods else None


def start(*commands: str) -> Callable[[Row], Row | None]:
    def pick(row: Row) -> Row | None:
        time = row["time"]
        seconds = {"value": time["median"], "q1": time["q1"], "q3": time["q3"], "of_minima": time["min"]}
        return seconds if row["command"] in commands else None

    return pick


def saved(row: Row) -> Row | None:
    square = (row["in"], row["out"], row["r"]) == (4096, 4096, 8)
    return row["against_lora"] if square and row["method"] == "sharing" else None


def merge(row: Row) -> Row | None:
    return row["ratio"] if row["what"] == "merge" and row["operator"] != "W += D" else None


def restart(row: Row) -> Row | None:
    return row["ratio"] if row["what"] == "restart" and row["operator"] == "restart" else None


def step(row: Row) -> Row | None:
    model, r, operator = row["model"], row["r"], row["operator"]
    chosen = (model, r, operator, row["method"]) == ("smollm2-135m", 8, "sharing", "mora")
    return row["ratio"] if chosen else None


def trainer(row: Row) -> Row | None:
    return row["ratio"] if row["loop"] == "run.py" else None


def curve(row: Row) -> Row | None:
    return row["share"] if row["stage"] == stages.CURVE else None


def grown(command: str, field: str, unit: float = 1.0) -> Callable[[Row], Row | None]:
    """The value of a field, in `unit`, of the rows of one command."""
    return lambda row: {"value": row[field] / unit} if row["command"] == command else None


NOISE = (
    "Where the frozen layer takes half a second, the adapter adds less time than the frozen layer itself varies by, as "
    "the quartiles show."
)
BLOCKS = (
    "A block operator computes three products of 2 T k r_hat operations each: in the forward pass, for the gradient "
    "of the input, and for the gradient of M. These three products alone, each as one product of contiguous matrices, "
    "take about as long as everything that LoRA adds. LoRA's overhead is mostly memory traffic and grows with k only. "
    "The rest of the time goes to blocks that lie apart in memory. Sharing sums first and multiplies once, so sharing "
    "does not have this cost. " + NOISE
)
SUMS = (
    "At r = 8 sharing reads or writes each of four tensors once (input, output and their gradients), and multiplies as "
    "much as LoRA. But the frozen layer also becomes slower, because other data pass through the cache, and the target "
    "leaves no time for that. " + NOISE
)
SUMS_AND_PRODUCTS = (
    "At r = 128 sharing multiplies as much as LoRA does, and also sums its input, so both take about the same time. On "
    "the faster machine of 2026-11-24, with the code of that day, the worst ratio was 1.00. " + NOISE
)
MERGES = (
    "Where the outputs are strided, or folded over, a merge writes parts of rows that lie apart in memory; the dense "
    "matrix is added as one block. On the faster machine of 2026-11-24 the same code took 1.56 times the dense sum."
)
COPIES = (
    "Adding a ready matrix to every adapted weight of smollm2-135m takes 1.3 times as long as reading and writing all "
    "weights. A restart adds rows of M, which are short in this model (78 to 129 numbers), so there are many small "
    "additions: they take 2.1 times as long. The rest of the time copies M, because checkpoints keep what was merged, "
    "and clears M and both of its moments in the optimizer. That is little time at rank 8. In the 250M model at rank "
    "128, M has a fifth as many numbers as all weights together."
)
REST = (
    "Most of a step is spent in the frozen layers, the attention and the head, which are the same for both methods. "
    "MoRA can be faster than LoRA only in the time that the adapter adds. In this small model a part of that time is "
    "needed to start operations on small tensors (0.15 ms for a layer and step), whatever the operations are."
)
READING = (
    "With 500 records the tables take 2.1 s, and with 5,000 records 3.4 s (AMD EPYC, 2026-11-30). So the work that "
    "does not grow takes two thirds of the target: Python imports the modules in 0.5 s, and about a hundred cells of "
    "the paper's and of other studies are composed and checked in 1.0 s. Reading 5,000 records takes 1.0 s, of which "
    "Python's own reader of JSON would need 0.7 s."
)
DRAWING = (
    "make_report.py does all that make_tables.py does, and matplotlib draws 24 figures; 18 of these figures show "
    "archived runs that no study describes. The figures take 2.2 of about 5.7 s (AMD EPYC, 2026-11-30): a third builds "
    "the figures, a third lays them out, and a third writes them. Without any figure the page would still take longer "
    "than the target allows, for the reasons that are given for the tables."
)
TARGETS = (
    Target(
        "sharing, r = 8: overhead over the frozen layer against LoRA's", "linear", 0.4, overhead(8, "sharing"), SUMS
    ),
    Target("sharing, r = 128: overhead against LoRA's", "linear", 1.0, overhead(128, "sharing"), SUMS_AND_PRODUCTS),
    Target(
        "rotation and decouple, r = 8: overhead against LoRA's",
        "linear",
        1.5,
        overhead(8, "rotation", "decouple"),
        BLOCKS,
    ),
    Target("bytes saved for backward, sharing, 4096 x 4096, r = 8, against LoRA's", "memory", 0.1, saved),
    Target("merge, 4096 x 11008, every operator, against adding a ready dense matrix", "merging", 2.0, merge, MERGES),
    Target("restart of a whole model against one read and write of its weights", "merging", 3.0, restart, COPIES),
    Target("training step, smollm2-135m, sharing against LoRA, r = 8", "steps", 0.97, step, REST),
    Target("run.py's tokens a second against a bare loop's", "harness", 0.95, trainer, at_most=False),
    Target("points of the curve, of the time of a run", "stages", 0.1, curve),
    Target(
        "run.py --help, --cfg job, a configuration error",
        "startup",
        1.5,
        start("run.py --help", "run.py --cfg job", "a configuration error"),
        unit=" s",
    ),
    Target("a finished cell is recognised", "startup", 2.0, start("a finished cell"), unit=" s"),
    Target("tables of 5,000 records", "growth", 3.0, grown(growth.TABLES, "seconds"), READING, unit=" s"),
    Target("page of 5,000 records", "growth", 3.0, grown(growth.PAGE, "seconds"), DRAWING, unit=" s"),
    Target("size of the page of 5,000 records", "growth", 3.0, grown(growth.PAGE, "bytes", 1e6), unit=" MB"),
    Target("a cell of a sweep is composed", "growth", 0.1, grown(growth.COMPOSED, "seconds"), unit=" s"),
    Target("a cell of a sweep is composed and checked", "growth", 0.1, grown(growth.CHECKED, "seconds"), unit=" s"),
)
