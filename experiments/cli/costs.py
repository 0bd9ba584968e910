"""What the missing runs of cells would cost, by the finished runs of a folder of results."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..estimate import rough
from ..spec import shapes
from ..spec.run_config import RunConfig
from ..store.records import Record
from ..study import measures, planning
from ..study.planning import Plan


class Costs:
    """The times of runs to come.

    Args:
        records: The records by which times are estimated.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.finished = [record for record in records if record.status == "finished"]
        self.speeds = [speed for record in self.finished if (speed := _flops_a_second(record)) is not None]

    def seconds(self, plan: Plan) -> tuple[float | None, str]:
        """Seconds of one run of a cell, and where the number comes from; None where nothing gives a number."""
        config = plan.setting.config if plan.setting else None
        alike = [r for r in self.finished if (r.cell["task"], r.cell["method"]) == (plan.cell.task, plan.cell.method)]
        if times := [seconds for r in alike if (seconds := _seconds_at(config, r)) is not None]:
            return sum(times) / len(times), f"from {len(times)} finished"
        flops = rough.flops(config) if config else None
        if flops is None:
            return None, ""
        if self.speeds:
            return flops / (sum(self.speeds) / len(self.speeds)), "by FLOPs of the base model, from other runs here"
        duration = planning.duration(rough.seconds_on_card(flops))
        return None, f"about {duration} a run on one {rough.CARD}, by FLOPs of the base model"

    def of_cell(self, plan: Plan) -> str:
        """What the missing runs of a cell would cost, and where the number comes from."""
        count = planning.count_of_runs(plan)
        if not count:
            return ""
        runs = f"{count} run{'' if count == 1 else 's'}"
        seconds, source = self.seconds(plan)
        if seconds is None:
            return (
                f"{runs}, {source or f'no estimate (no finished run of {plan.cell.method} on {plan.cell.task} here)'}"
            )
        return f"{runs}, about {planning.duration(count * seconds)} ({source})"

    def total(self, plans: Sequence[Plan]) -> str:
        """One line: cells, runs to do, and the time of those for which a time is known."""
        counted = self._counted(plans)
        known = sum(count * seconds for count, seconds in counted if seconds is not None)
        unknown = sum(count for count, seconds in counted if seconds is None)
        least = "at least " if any(plan.widens for plan in plans) else ""
        line = f"\n{len(plans)} cells; {least}{sum(count for count, _ in counted)} runs to do"
        line += f", about {planning.duration(known)}" if known else ""
        return line + (f"; {unknown} of them without a time" if unknown and known else "")

    def time_left(self, plans: Sequence[Plan]) -> str:
        """How long all cells will still take, in words; empty where some time is not known."""
        seconds = [s and count * s for count, s in self._counted(plans) if count]
        known = [s for s in seconds if s is not None]
        return f"about {planning.duration(sum(known))}" if known and len(known) == len(seconds) else ""

    def _counted(self, plans: Sequence[Plan]) -> list[tuple[int, float | None]]:
        """How many runs each cell still needs, and the seconds of one."""
        return [(planning.count_of_runs(p), self.seconds(p)[0]) for p in plans]


def _seconds_at(config: RunConfig | None, record: Record) -> float | None:
    """The seconds of a record's run, scaled to the steps, batch and model of `config`."""
    seconds = measures.number(record.cost.get("seconds"))
    shape = shapes.at_hand(config.model, config.paths.cache_folder) if config else None
    sizes = _sizes(record)
    if seconds is None or config is None or shape is None or sizes is None:
        return seconds
    return seconds * shape.parameters * config.training.steps * config.training.batch_size / math.prod(sizes)


def _flops_a_second(record: Record) -> float | None:
    """The FLOPs that a run did in a second."""
    cost = [measures.number(record.cost.get(name)) for name in ("total_parameters", "tokens", "seconds")]
    parameters, tokens, seconds = cost
    if not (parameters and tokens and seconds):
        return None
    trained = measures.number(record.cost.get("trainable_parameters"))
    return rough.FLOPS[trained == parameters] * parameters * tokens / seconds


def _sizes(record: Record) -> tuple[float, float, float] | None:
    """Parameters, steps and batch size of a run."""
    training = record.config.get("training", {})
    values = (record.cost.get("total_parameters"), training.get("steps"), training.get("batch_size"))
    parameters, steps, batch = map(measures.number, values)
    return (parameters, steps, batch) if parameters and steps and batch else None
