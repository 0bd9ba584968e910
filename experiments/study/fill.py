"""Which runs fill which cell, and the learning rate that was selected.

A record fills a cell when its key is the key of the cell's configuration at the record's own rate, seed and number
format. So a run with other settings, of an older task version or at another scale never slips into a table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .. import paper
from ..paper import Cell
from ..store.records import Record
from . import measures
from .cells import Protocols, Setting, UnavailableError


@dataclass(frozen=True)
class Selection:
    """The learning rate of a cell's runs, and how it was found.

    Attributes:
        by: "training loss", or "only rate tried".
        scores: Rate -> the training loss; None for a run that failed or whose loss is not finite.
    """

    rate: float
    by: str
    scores: dict[float, float | None]


@dataclass
class Filled:
    """A cell with its runs: `runs[rate][seed]` is the record of that run, whatever its status."""

    cell: Cell
    setting: Setting | None
    missing: str  # why there is no setting; empty where there is one
    command: str
    runs: dict[float, dict[int, Record]] = field(default_factory=dict)

    @cached_property
    def selection(self) -> Selection | None:
        """The rate with the lowest loss; ties go to the lower rate. None where no run has finished."""
        tried = {rate: seeds[min(seeds)] for rate, seeds in sorted(self.runs.items())}
        finished = [rate for rate, record in tried.items() if record.status == "finished"]
        if not finished:
            return None
        by = "only rate tried" if len(tried) == 1 else "training loss"
        scores = {rate: measures.training_loss(tried[rate]) if rate in finished else None for rate in tried}
        best = min(finished, key=lambda rate: (scores[rate] is None, scores[rate] or 0.0, rate))
        return Selection(best, by, scores)

    @cached_property
    def selected(self) -> dict[int, Record]:
        """Seed -> finished run at the selected rate."""
        selection = self.selection
        chosen = self.runs[selection.rate] if selection else {}
        return {seed: r for seed, r in sorted(chosen.items()) if r.status == "finished"}

    @property
    def at_selected(self) -> list[Record]:
        """Every run at the selected rate, the failed ones too."""
        selection = self.selection
        return [r for _, r in sorted(self.runs[selection.rate].items())] if selection else []

    @property
    def records(self) -> list[Record]:
        return [r for _, seeds in sorted(self.runs.items()) for _, r in sorted(seeds.items())]

    @cached_property
    def diverged(self) -> set[str]:
        """The keys of the runs that diverged."""
        return {r.key for r in self.records if measures.diverged(r)}

    def count_diverged(self, runs: Iterable[Record]) -> int:
        return sum(r.key in self.diverged for r in runs)


class Results:
    """The records of one scale, cell by cell."""

    def __init__(self, scale: str, records: Iterable[Record], protocols: Protocols | None = None) -> None:
        self.scale = scale
        self.protocols = protocols or Protocols(scale)
        self.records = [r for r in records if r.cell["scale"] == scale]
        self._by_name: dict[Any, list[Record]] = defaultdict(list)
        for record in self.records:
            cell = record.cell
            self._by_name[cell["task"], cell["method"]].append(record)
            self._by_name[cell["task"], cell["method"], cell["rank"], cell["operator"]].append(record)
        self._cells: dict[Cell, Filled] = {}

    def cell(self, cell: Cell) -> Filled:
        """The runs of a cell. Composes its configuration only where there may be any."""
        if cell not in self._cells:
            self._cells[cell] = self._fill(cell)
        return self._cells[cell]

    def _fill(self, cell: Cell) -> Filled:
        if (cell.task, cell.method) not in self._by_name:
            return Filled(cell, None, "", self.protocols.command(cell))
        try:
            setting = self.protocols.setting(cell)
        except UnavailableError as error:
            return Filled(cell, None, str(error), self.protocols.command(cell))
        filled = Filled(cell, setting, "", setting.command)
        rates = {*setting.candidates, setting.use}
        for record in self._by_name.get((cell.task, cell.method, setting.rank, setting.operator), []):
            rate, seed = float(record.cell["learning_rate"] or 0.0), record.cell["seed"]
            if rate not in rates:
                continue
            if record.key == setting.key(rate, seed):
                filled.runs.setdefault(rate, {})[seed] = record
            elif record.key == setting.key(rate, seed, record.config.get("hardware", {})):
                filled.runs.setdefault(rate, {}).setdefault(seed, record)
        return filled

    def unplaced(self) -> list[Record]:
        """Finished runs that fill no cell: of other settings, or of a protocol that has changed since."""
        placed = {r.key for cell in paper.all_cells(self.scale) for r in self.cell(cell).records}
        return [r for r in self.records if r.status == "finished" and r.key not in placed]
