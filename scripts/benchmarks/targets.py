"""What the project promises about speed, and what a measurement says to each promise: the worst of its cases counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        what: What is compared with what.
        part: The part of the benchmark that measures it.
        limit: What the value must not pass.
        pick: The value of a row, or None where the row is about something else.
        reason: Why it is missed where it is, as profiling shows it; empty where it is expected to be met.
        at_most: False where the value must reach the limit instead.
        unit: Of value and limit.
    """

    what: str
    part: str
    limit: float
    pick: Callable[[Row], Row | None]
    reason: str = ""
    at_most: bool = True
    unit: str = ""

    def worst(self, rows: list[Row]) -> tuple[Row, Row] | None:
        """The case that is furthest on the wrong side, as its row and its value; None where nothing was measured."""
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


BLOCKS = (
    "A block operator multiplies: three products of 2 T k r_hat operations, forward, for the input's gradient and for "
    "M's, and these alone, each as one product of contiguous matrices, take about as long as all that LoRA adds "
    "(2048 x 2048: three times 2.6 ms), whose overhead is mostly memory traffic and grows with k alone. Blocks that "
    "lie apart in memory cost the rest. Sharing, which sums first and multiplies once, does not have this."
)
SUMS = (
    "At r = 8 sharing passes once over each of the four tensors, input, output and their gradients, and multiplies "
    "as much as LoRA. At 2048 x 2048 its seven operations, timed one by one, take 3 ms beside LoRA's 7: no more than "
    "the target, which leaves nothing for what the frozen product loses when other data pass through the cache. Where "
    "the output is the smaller side, LoRA's passes over it are short, and the quotient is worst."
)
COPIES = (
    "Adding a ready matrix to every adapted weight of smollm2-135m takes 1.3 times a read and write of all weights. "
    "The rows of M that a restart adds are short there (78 to 129 numbers, many small additions): 2.1 times. The rest "
    "copies M, because checkpoints keep what was merged, and clears M and both of its moments in the optimizer: little "
    "at rank 8, but at rank 128 in the 250M shape M holds a fifth as many numbers as all weights."
)
REST = (
    "Most of a step is the frozen layers, attention and the head, the same for both; what an adapter adds is all that "
    "there is to win. In this small model part of that is the time to start operations on small tensors (0.15 ms a "
    "layer and step), which adding in place does not take away."
)
TARGETS = (
    Target(
        "sharing, r = 8: overhead over the frozen layer against LoRA's", "linear", 0.4, overhead(8, "sharing"), SUMS
    ),
    Target("sharing, r = 128: overhead against LoRA's", "linear", 1.0, overhead(128, "sharing")),
    Target(
        "rotation and decouple, r = 8: overhead against LoRA's",
        "linear",
        1.5,
        overhead(8, "rotation", "decouple"),
        BLOCKS,
    ),
    Target("bytes saved for backward, sharing, 4096 x 4096, r = 8, against LoRA's", "memory", 0.1, saved),
    Target("merge, 4096 x 11008, every operator, against adding a ready dense matrix", "merging", 2.0, merge),
    Target("restart of a whole model against one read and write of its weights", "merging", 3.0, restart, COPIES),
    Target("training step, smollm2-135m, sharing against LoRA, r = 8", "steps", 0.97, step, REST),
    Target("run.py's tokens a second against a bare loop's", "harness", 0.95, trainer, at_most=False),
    Target(
        "run.py --help, --cfg job, a configuration error",
        "startup",
        1.5,
        start("run.py --help", "run.py --cfg job", "a configuration error"),
        unit=" s",
    ),
    Target("a finished cell is recognised", "startup", 2.0, start("a finished cell"), unit=" s"),
)
