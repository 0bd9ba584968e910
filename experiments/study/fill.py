"""Which runs fill which cell, and the learning rate that was selected.

A record fills a cell when its identity is that of the cell at the record's own learning rate, seed and number format.
So a run with other settings, of an older task version or at another scale never slips into a table. The learning rate
may be any: a search goes on beyond the candidates of the protocol. The machine of the reader plays no part.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .. import tasks
from ..errors import ConfigError
from ..identity import RATE, differences
from ..paper import Cell
from ..spec import methods
from ..store.records import Record
from . import measures, rates
from .cells import CellSetting, Protocols, UnavailableError
from .layout import Study

SHOWN = 3  # settings that are named where a record does not fit


@dataclass(frozen=True)
class Selection:
    """The learning rate of a cell's runs, and how it was found.

    Attributes:
        by: By what number, in words, such as "training loss"; or "only rate tried".
        scores: Rate -> this number; None for a run that failed or whose number is not finite.
        tried: The rates that are known to work or to diverge: of these a run finished or diverged.
        cost: The number of the selected rate, turned so that less is better; infinite where there is none.
        seed: The seed of the runs that are compared.
        left_out: The rates that have no run with this seed.
        at_floor: Whether the number of the selected rate is no better than its floor.
    """

    rate: float
    by: str
    scores: dict[float, float | None]
    tried: tuple[float, ...]
    cost: float = math.inf
    seed: int = 0
    left_out: tuple[float, ...] = ()
    at_floor: bool = False

    @property
    def doubt(self) -> str:
        """Why another rate may be better; empty where lower and higher rates have been tried."""
        edge = rates.edge(self.rate, self.tried)
        return f"the learning rate {self.rate:g} is the {edge} that was tried" if edge else ""


@dataclass
class FilledCell:
    """A cell with its runs: `runs[rate][seed]` is the record of that run, whatever its status.

    A task may select another learning rate for values that are read during the training than for values at its end.
    `in_training` says for which of the two the rate of a filled cell is selected.
    """

    cell: Cell
    setting: CellSetting | None
    missing: str  # why there is no setting; empty where there is one
    command: str
    runs: dict[float, dict[int, Record]] = field(default_factory=dict)
    alike: Sequence[Record] = ()  # a record of each cell with the same task and method
    variants: Sequence[FilledCell] = ()  # all that a search over further settings compares, this cell among them
    in_training: bool = False

    def add(self, records: Iterable[Record]) -> None:
        """Take these runs. Of runs in several number formats, with one rate and seed, one that has ended counts.

        Of several such runs that of float32 counts.
        """
        for record in sorted(records, key=_preference):
            self.runs.setdefault(_rate(record), {}).setdefault(record.cell["seed"], record)

    @cached_property
    def nearest(self) -> str:
        """Of a cell without runs: the nearest record, and the settings in which it differs; else empty."""
        return nearest(self.setting, self.alike) if self.setting and self.alike and not self.runs else ""

    @cached_property
    def selection(self) -> Selection | None:
        """The rate with the best number. None where no run has finished.

        Of equal rates the lowest or the highest that was tried is taken, if it is among them: the search then goes on.

        The runs with the seed that most rates have are compared, of equals the lowest seed: another seed may draw other
        data. A rate without such a run is left out.
        """
        counts = Counter(seed for seeds in self.runs.values() for seed in seeds)
        seed = min(counts, key=lambda seed: (-counts[seed], seed), default=0)
        tried = {rate: seeds[seed] for rate, seeds in sorted(self.runs.items()) if seed in seeds}
        finished = [rate for rate, record in tried.items() if record.status == "finished"]
        if not finished:
            return None
        criterion = tasks.get(self.cell.task).criterion(in_training=self.in_training)
        by = "only rate tried" if len(tried) == 1 else criterion.label
        scores = {r: measures.selection_score(tried[r], criterion) if r in finished else None for r in tried}
        sign = -1 if criterion.higher_is_better else 1
        costs = {r: math.inf if score is None else sign * score for r, score in scores.items()}
        edges = (min(tried), max(tried))
        best = min(finished, key=lambda rate: (costs[rate], rate not in edges, rate))
        tested = tuple(r for r, record in tried.items() if r in finished or record.key in self.diverged)
        floor = measures.floor(tried[best], criterion.metric) if criterion.metric else None
        at_floor = floor is not None and costs[best] >= sign * floor
        left_out = tuple(sorted(self.runs.keys() - tried.keys()))
        return Selection(best, by, scores, tested, costs[best], seed, left_out, at_floor)

    @property
    def doubt(self) -> str:
        """Why the runs may not show the cell at its best, or hide its failures; empty where nothing speaks for that."""
        if self.setting is None or not self.setting.candidates or self.selection is None:
            return ""
        diverged, total = self.count_diverged(self.at_selected), len(self.at_selected)
        lost = f"{diverged} of {total} runs at the learning rate {self.selection.rate:g} diverged" if diverged else ""
        return "; ".join(filter(None, (self.selection.doubt, lost)))

    @cached_property
    def selected(self) -> dict[int, Record]:
        """Seed -> finished run at the selected rate."""
        selection = self.selection
        chosen = self.runs[selection.rate] if selection else {}
        return {seed: r for seed, r in sorted(chosen.items()) if r.status == "finished"}

    @property
    def searched_runs(self) -> list[Record]:
        """The finished runs that the search compares, by learning rate."""
        selection = self.selection
        if selection is None:
            return []
        runs = (self.runs[rate].get(selection.seed) for rate in selection.scores)
        return [run for run in runs if run is not None and run.status == "finished"]

    @property
    def at_selected(self) -> list[Record]:
        """Every run at the selected rate, the failed ones too."""
        selection = self.selection
        return [r for _, r in sorted(self.runs[selection.rate].items())] if selection else []

    @property
    def records(self) -> list[Record]:
        """All runs of the cell, by learning rate and seed."""
        return [r for _, seeds in sorted(self.runs.items()) for _, r in sorted(seeds.items())]

    @cached_property
    def diverged(self) -> set[str]:
        """The keys of the runs that diverged."""
        return {r.key for r in self.records if measures.diverged(r)}

    def count_diverged(self, runs: Iterable[Record]) -> int:
        """How many of these runs diverged."""
        return sum(r.key in self.diverged for r in runs)


class Results:
    """The records of one scale, cell by cell."""

    def __init__(self, scale: str, records: Iterable[Record], protocols: Protocols | None = None) -> None:
        self.scale = scale
        self.protocols = protocols or Protocols(scale)
        self.records = [r for r in records if r.cell["scale"] == scale]
        self._by_method: dict[tuple[str, str], list[Record]] = defaultdict(list)  # of each cell the first record
        self._by_cell: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            self._by_cell[record.cell_key].append(record)
        for records_of_cell in self._by_cell.values():
            first = min(records_of_cell, key=lambda record: record.key)
            self._by_method[first.cell["task"], first.cell["method"]].append(first)
        self._cells: dict[Cell, FilledCell] = {}
        self._in_training: dict[Cell, FilledCell] = {}

    def cell(self, cell: Cell, *, in_training: bool = False) -> FilledCell:
        """The runs of a cell. Composes its configuration only where there may be any.

        Args:
            cell: The cell.
            in_training: Whether its values are read during the training. A task may select another rate for these
                values. Where no rate gives a number above the floor during the training, chance decides between the
                rates, so the rate for values at the end is taken.
        """
        if cell not in self._cells:
            self._cells[cell] = self._fill(cell)
        filled = self._cells[cell]
        if not in_training or not tasks.get(cell.task).curve_selection:
            return filled
        if cell not in self._in_training:
            during = _during_training(filled)
            self._in_training[cell] = filled if during.selection and during.selection.at_floor else during
        return self._in_training[cell]

    def both(self, cell: Cell) -> list[FilledCell]:
        """The runs of a cell as values at the end and values during the training take them: one where both agree."""
        end, during = self.cell(cell), self.cell(cell, in_training=True)
        return [end] if during is end else [end, during]

    def misfit(self, cell: Cell) -> str:
        """Why a cell stays without runs: its method cannot spend the budget on the model. Empty for other cells."""
        if self.cell(cell).runs or not methods.has(cell.method, "budget"):
            return ""
        try:
            return self.protocols.setting(cell).misfit
        except UnavailableError:
            return ""

    def put(self, filled: FilledCell) -> None:
        """Take a cell as it is, which no configuration of this version describes."""
        self._cells[filled.cell] = filled

    def _fill(self, cell: Cell) -> FilledCell:
        alike = self._by_method.get((cell.task, cell.method))
        if not alike:
            return FilledCell(cell, None, "", self.protocols.command(cell))
        try:
            setting = self.protocols.setting(cell)
        except UnavailableError as error:
            return FilledCell(cell, None, str(error), self.protocols.command(cell))
        if setting.searched:
            variants = [self.cell(variant) for variant in setting.variants]
            return replace(min(variants, key=_cost), variants=variants)
        filled = FilledCell(cell, setting, "", setting.command, alike=alike)
        records = self._by_cell[setting.cell_key]
        if setting.candidates and not setting.widens:  # the study names its rates, and other runs are of another search
            records = [record for record in records if _rate(record) in setting.candidates]
        filled.add(records)
        return filled

    def has_runs(self, study: Study) -> bool:
        """Whether a run fills a cell of the study."""
        return any(self._may_have_runs(cell) and self.cell(cell).runs for cell in study.cells(self.scale))

    def obstacle(self, study: Study) -> str:
        """Why no run fills a study although its methods were run on its task; empty where nothing can be said.

        A data file or a model of the study may have changed since, or may be gone.
        """
        if self.has_runs(study):
            return ""
        for cell in study.cells(self.scale):
            filled = self.cell(cell)
            if reason := filled.missing or filled.nearest:
                return reason if filled.missing else f"the nearest record is {reason}"
        return ""

    def _may_have_runs(self, cell: Cell) -> bool:
        """Whether there are runs of the cell's method on this version of its task. Nothing is composed for this."""
        if cell in self._cells:
            return True
        alike = self._by_method.get((cell.task, cell.method))
        if not alike:
            return False
        try:
            version = tasks.get(cell.task).version
        except ConfigError:
            return False
        return any(record.identity.get("task_version", version) == version for record in alike)

    def unplaced(self, studies: Iterable[Study]) -> list[Record]:
        """Runs that fill no cell of the studies: of other settings, or of a protocol that has changed since.

        All the rates of a search count as placed.
        """
        cells = {cell for study in studies for cell in study.cells(self.scale) if self._may_have_runs(cell)}
        filled = [variant for cell in cells for variant in (self.cell(cell).variants or [self.cell(cell)])]
        placed = {r.key for cell in filled for r in cell.records}
        return [r for r in self.records if r.key not in placed]


def _cost(filled: FilledCell) -> float:
    """By what variants are compared; infinite where nothing has finished, so that the first variant is then taken."""
    return filled.selection.cost if filled.selection else math.inf


def _during_training(filled: FilledCell) -> FilledCell:
    """The cell with the rate, and with the variant, that is selected for values that are read during the training."""
    if not filled.variants:
        return replace(filled, in_training=True)
    variants = [replace(variant, in_training=True) for variant in filled.variants]
    return replace(min(variants, key=_cost), variants=variants)


def _rate(record: Record) -> float:
    """The learning rate of a run; 0 where nothing is trained."""
    return float(record.cell["learning_rate"] or 0.0)


def _preference(record: Record) -> tuple[bool, bool, str, str]:
    """The run that sorts first counts: one that has finished or diverged, then one of float32."""
    ended = record.status == "finished" or measures.diverged(record)
    precision = measures.number_format(record)
    return not ended, precision != "fp32", precision, record.key


def nearest(setting: CellSetting, records: Iterable[Record]) -> str:
    """The record that differs from a cell in the fewest settings, and which these are."""
    apart = {record.key: misfits(record, setting) for record in records}
    key = min(apart, key=lambda k: (len(apart[k]), k))
    settings = [f"{n} {_shown(has)}, this cell wants {_shown(wants)}" for n, (has, wants) in apart[key].items()]
    more = f"; and {len(settings) - SHOWN} more" if len(settings) > SHOWN else ""
    return f"{key}: {'; '.join(settings[:SHOWN])}{more}"


def misfits(record: Record, setting: CellSetting) -> dict[str, tuple[Any, Any]]:
    """Setting -> (the record's value, the cell's), where they differ; any learning rate and any seed fit."""
    return {
        name: values
        for name, values in differences(record.identity, setting.identity).items()
        if name not in ("seed", RATE) and not name.startswith("hardware.")
    }


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
