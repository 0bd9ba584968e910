"""A cell of the paper at a scale -> the configuration that fills it, and the identity that its records must have.

Configurations are composed by Hydra from conf/, exactly as run.py composes them. A composition takes tens of
milliseconds and a page of tables needs a hundred, so a task and a method are composed once each and put together where
the result is the same (a test compares the two ways).
"""

from __future__ import annotations

import copy
import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import paper, tasks
from ..errors import ConfigError
from ..identity import cell_key_of, identity_of, key_of
from ..paper import Cell
from ..spec import compose, protocol
from ..spec.parse import parse
from ..spec.run_config import RunConfig


class UnavailableError(Exception):
    """This version of the project has no configuration for a cell. The message says what is missing."""


@dataclass(frozen=True)
class CellSetting:
    """What fills a cell at a scale.

    Attributes:
        arguments: What run.py needs on its command line, the learning rate and the seed aside.
        rank: The rank at this scale; None for methods that have none.
        candidates: Learning rates of the search, in order; empty where nothing is trained.
        default_rate: The rate that run.py takes when none is given; 0 where nothing is trained (there it takes none).
        searched: (setting, candidates) of each setting that the protocol searches beside the learning rate.
    """

    cell: Cell
    scale: str
    arguments: tuple[str, ...]
    rank: int | None
    operator: str | None
    model: str
    candidates: tuple[float, ...]
    default_rate: float
    identity: dict[str, Any] = field(repr=False, compare=False)
    searched: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def variants(self) -> list[Cell]:
        """The cell with each combination of candidates for the settings that are searched; else the cell alone."""
        choices = [[f"method.{name}={value}" for value in values] for name, values in self.searched]
        return [replace(self.cell, options=(*self.cell.options, *chosen)) for chosen in itertools.product(*choices)]

    def run_identity(self, rate: float, seed: int) -> dict[str, Any]:
        """The identity of the run at `rate` and `seed` on this machine."""
        changed: dict[str, Any] = {"seed": seed}
        if self.candidates:
            changed["training"] = {**self.identity["training"], "learning_rate": rate}
        return {**self.identity, **changed}

    def key(self, rate: float, seed: int) -> str:
        """The key of the run at `rate` and `seed` on this machine."""
        return key_of(self.run_identity(rate, seed))

    @cached_property
    def cell_key(self) -> str:
        """What the runs of the cell share, whatever their rate, seed and number format."""
        return cell_key_of(self.identity)

    @cached_property
    def command(self) -> str:
        """The command that fills the cell, without learning rate and seed."""
        return shlex.join(["python", "run.py", *self.arguments])


class Protocols:
    """Settings of cells at one scale."""

    def __init__(self, scale: str) -> None:
        compose.register()
        self.scale = scale
        self._composed: dict[tuple[str, str, str], DictConfig | UnavailableError] = {}
        self._settings: dict[Cell, CellSetting | UnavailableError] = {}

    def setting(self, cell: Cell) -> CellSetting:
        """The configuration of `cell`.

        Raises:
            UnavailableError: There is no such method, task or protocol here, or it does not fit.
        """
        if cell not in self._settings:
            try:
                self._settings[cell] = self._resolve(cell)
            except UnavailableError as error:
                self._settings[cell] = error
        result = self._settings[cell]
        if isinstance(result, UnavailableError):
            raise result
        return result

    def command(self, cell: Cell) -> str:
        """The command that fills `cell`, with the scale's ranks by name: nothing has to be composed for it."""
        arguments = [f"method={cell.method}", f"task={cell.task}", f"scale={self.scale}"]
        if cell.rank in (paper.LOW, paper.HIGH):
            arguments.append(f"method.rank=${{protocol.ranks.r{cell.rank}}}")
        return shlex.join(["python", "run.py", *arguments, *self._more(cell)])

    @staticmethod
    def _more(cell: Cell) -> list[str]:
        settings = {"method.operator": cell.operator, "model": cell.model}
        return [f"{name}={value}" for name, value in settings.items() if value] + list(cell.options)

    def _resolve(self, cell: Cell) -> CellSetting:
        composed = self._compose(cell.method, cell.task)
        arguments = [f"method={cell.method}", f"task={cell.task}", f"scale={self.scale}"]
        if cell.rank is not None:
            rank = protocol.own_rank(composed.protocol.ranks, cell.rank)
            if rank != protocol.lowest_rank(composed.protocol.ranks):
                arguments.append(f"method.rank={rank}")
            OmegaConf.update(composed, "method.rank", rank)
        composed.merge_with_dotlist(self._more(cell))
        arguments += self._more(cell)
        try:
            parsed = parse(composed)
            identity = identity_of(parsed)
            candidates = self._candidates(parsed)
        except (ConfigError, OmegaConfBaseException) as error:
            raise UnavailableError(" ".join(str(error).split())) from None
        return CellSetting(
            cell,
            self.scale,
            tuple(arguments),
            parsed.method.rank,
            parsed.method.setting("operator"),
            parsed.model,
            candidates,
            parsed.training.learning_rate or 0.0,
            identity,
            self._searched(parsed, cell),
        )

    @staticmethod
    def _searched(parsed: RunConfig, cell: Cell) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """What `protocol.search` lists for settings that the method has, and that the cell does not fix."""
        fixed = {option.partition("=")[0] for option in cell.options}
        listed: dict[str, list[Any]] = parsed.protocol.get("search") or {}
        return tuple(
            (name, tuple(values))
            for name, values in listed.items()
            if parsed.method.setting(name) is not None and f"method.{name}" not in fixed
        )

    @staticmethod
    def _candidates(parsed: RunConfig) -> tuple[float, ...]:
        if parsed.method.rates is None:
            return ()
        listed = protocol.rates(parsed.protocol, parsed.method.rates, parsed.method.rank)["candidates"]
        return tuple(sorted(map(float, listed)))

    def _compose(self, method: str, task: str) -> DictConfig:
        """The composition of a method with a task, fresh: the caller may change it."""
        if task == "uuid" or method == "fft":
            return copy.deepcopy(self._hydra(method, task))
        # A method file that changes nothing but the `method` section can be put into any task's composition.
        here, reference = self._hydra(method, "uuid"), self._hydra("fft", "uuid")
        if _without_method(here) != _without_method(reference):
            return copy.deepcopy(self._hydra(method, task))
        put_together = copy.deepcopy(self._hydra("fft", task))
        OmegaConf.set_struct(put_together, False)
        put_together.method = copy.deepcopy(here.method)
        return put_together

    def _hydra(self, method: str, task: str) -> DictConfig:
        choice = (method, task, self.scale)
        if choice not in self._composed:
            try:
                self._composed[choice] = compose.composition(
                    [f"method={method}", f"task={task}", f"scale={self.scale}"]
                )
            except (HydraException, OmegaConfBaseException) as error:
                self._composed[choice] = UnavailableError(" ".join(str(error).split()))
        result = self._composed[choice]
        if isinstance(result, UnavailableError):
            raise result
        return result


def _without_method(composed: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(composed)  # type: ignore[assignment]
    return {name: value for name, value in values.items() if name != "method"}


@dataclass(frozen=True)
class PaperValue:
    """A number of the paper, where it stands, and the model that the paper measured."""

    where: str
    value: float
    model: str


@cache
def protocols(scale: str) -> Protocols:
    """The settings of a scale, composed once in a process."""
    return Protocols(scale)


def places(identity: dict[str, Any]) -> Iterator[tuple[int, paper.Row, paper.Column]]:
    """Where a run stands in the tables: (number, row, column) of each cell that the run fills.

    Args:
        identity: That of the run. All of it counts but the learning rate, the seed and the number format.
    """
    key = cell_key_of(identity)
    for number in paper.TABLES:
        table = paper.table(number).at(identity["scale"])
        for row in table.rows:
            for column in table.columns:
                if _fills(identity, key, table.cell(row, column)):
                    yield number, row, column


def tables_of(identity: dict[str, Any]) -> list[str]:
    """The names of the tables in which a run fills a cell: `table2`."""
    return list(dict.fromkeys(f"table{number}" for number, *_ in places(identity)))


def paper_values_of(identity: dict[str, Any]) -> list[PaperValue]:
    """What the paper prints for the cell that a run fills, or, where no table has the cell, draws for it."""
    values, key = [], cell_key_of(identity)
    for number, row, column in places(identity):
        value = row.paper_values.get(column.name)
        if value is not None:
            values.append(PaperValue(f"Table {number}, {column.label}", value, column.paper_model))
    for number in () if values else paper.FIGURES:
        for series in paper.figure(number):
            if series.points and _fills(identity, key, series.cell):
                step, value = series.points[-1]
                model = tasks.get(series.cell.task).paper_model
                values.append(PaperValue(f"Figure {number}, training loss at step {step}", value, model))
    return values


def _fills(identity: dict[str, Any], key: str, cell: Cell) -> bool:
    """Whether a run fills a cell; `key` is the cell key of the run's identity."""
    method = identity["method"]
    if (identity["task"]["name"], method["name"]) != (cell.task, cell.method):
        return False
    if cell.operator not in (None, (method.get("peft") or {}).get("operator")) or cell.model not in (
        None,
        identity["model"],
    ):
        return False  # known without a composition, which takes tens of milliseconds
    known = protocols(identity["scale"])
    try:
        return any(known.setting(variant).cell_key == key for variant in known.setting(cell).variants)
    except UnavailableError:
        return False
