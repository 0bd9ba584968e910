"""A cell of a study at a scale -> the configuration that fills it, and the identity that its records must have.

Configurations are composed by Hydra from conf/, exactly as run.py composes them. A composition takes tens of
milliseconds and a page of tables needs a hundred, so a task and a method are composed once each and put together where
the result is the same (a test compares the two ways).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import shlex
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, cast

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import paper, tasks
from ..errors import ConfigError
from ..identity import RATE, cell_key_of, identity_of, key_of
from ..paper import Cell
from ..spec import budgets, compose, protocol
from ..spec.arguments import argument, settings
from ..spec.explanation import explain
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
        searched: (setting, candidates) of each setting that is searched beside the learning rate.
        config: The configuration of a run of the cell, at `default_rate`.
        widens: Whether the search goes on beyond the candidates while the best one lies at their edge.
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
    widens: bool = True
    config: RunConfig | None = field(default=None, repr=False, compare=False)

    @property
    def variants(self) -> list[Cell]:
        """The cell with each combination of candidates for the settings that are searched; else the cell alone."""
        choices = [[argument(name, value) for value in values] for name, values in self.searched]
        search = tuple(entry for entry in self.cell.search if entry not in self.searched)
        return [
            replace(self.cell, options=(*self.cell.options, *chosen), search=search)
            for chosen in itertools.product(*choices)
        ]

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
    def misfit(self) -> str:
        """Why the method cannot spend its budget on the model; empty where the method can, or where nobody knows."""
        return budgets.misfit(self.config) if self.config else ""

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
        self._sections: dict[str, DictConfig | None] = {}
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
        """The command that fills `cell`. Nothing is composed for a rank that the protocols of the task have by name."""
        if cell.rank is not None and cell.rank not in paper.published.ranks_of(cell.task):
            with contextlib.suppress(UnavailableError):
                return self.setting(cell).command
        arguments = [f"method={cell.method}", f"task={cell.task}", f"scale={self.scale}"]
        if cell.rank not in (None, paper.PRETRAINING):
            arguments.append(f"method.rank=${{protocol.ranks.r{cell.rank}}}")
        return shlex.join(["python", "run.py", *arguments, *self._more(cell)])

    @staticmethod
    def _more(cell: Cell) -> list[str]:
        fixed = {"method.operator": cell.operator, "model": cell.model}
        return [argument(name, value) for name, value in fixed.items() if value] + list(cell.options)

    def _resolve(self, cell: Cell) -> CellSetting:
        composed = self._compose(cell.method, cell.task)
        arguments = [f"method={cell.method}", f"task={cell.task}", f"scale={self.scale}"]
        if cell.rank is not None:
            rank = protocol.own_rank(composed.protocol.ranks, cell.rank)
            if rank != protocol.lowest_rank(composed.protocol.ranks):
                arguments.append(f"method.rank={rank}")
            OmegaConf.update(composed, "method.rank", rank)
        arguments += self._more(cell)
        composed = self._with(composed, cell, arguments)
        search = dict(cell.search)
        if RATE in search and composed.method.rates is not None:  # the protocol may have no rates for this method
            OmegaConf.update(composed, RATE, search[RATE][0])
        try:
            parsed = parse(composed)
            tasks.of(parsed).check(parsed)
            identity = identity_of(parsed)
            rates = self._candidates(parsed, cell)
        except (ConfigError, OmegaConfBaseException) as error:
            raise UnavailableError(" ".join(str(error).split())) from None
        return CellSetting(
            cell,
            self.scale,
            tuple(arguments),
            parsed.method.rank,
            parsed.method.operator_in_force,
            parsed.model,
            rates,
            parsed.training.learning_rate or 0.0,
            identity,
            self._searched(parsed, cell),
            widens=RATE not in search and RATE not in _names(cell.options),
            config=parsed,
        )

    def _with(self, composed: DictConfig, cell: Cell, arguments: list[str]) -> DictConfig:
        """The composition with the cell's further arguments: values are put into it, a choice needs a new one."""
        try:
            values = settings(self._more(cell))
            if not all(compose.holds(composed, name) for name in values):
                return compose.composition(arguments)
        except (HydraException, OmegaConfBaseException) as error:
            raise UnavailableError(explain(error, arguments)) from None
        for name, value in values.items():
            OmegaConf.update(composed, name, value, merge=False)
        return composed

    @staticmethod
    def _searched(parsed: RunConfig, cell: Cell) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """What the study and the protocol search, of the settings that the method has and the cell does not fix."""
        fixed = _names(cell.options)
        listed: dict[str, list[Any]] = parsed.protocol.get("search") or {}
        of_protocol = {
            f"method.{name}": tuple(values)
            for name, values in listed.items()
            if parsed.method.setting(name) is not None and f"method.{name}" not in fixed
        }
        of_study = {name: values for name, values in cell.search if name != RATE and name not in fixed}
        return tuple((of_protocol | of_study).items())

    @staticmethod
    def _candidates(parsed: RunConfig, cell: Cell) -> tuple[float, ...]:
        if parsed.method.rates is None:
            return ()
        if RATE in _names(cell.options):
            return (parsed.training.learning_rate or 0.0,)
        if listed := dict(cell.search).get(RATE):
            return listed
        found = protocol.rates(parsed.protocol, parsed.method.rates, parsed.method.rank)["candidates"]
        return tuple(sorted(map(float, found)))

    def _compose(self, method: str, task: str) -> DictConfig:
        """The composition of a method with a task, fresh: the caller may change it.

        It is the composition of `fft` with the task, with the section `method` of the method. Hydra composes the two
        itself where a file of the task has settings of methods, or where the file of the method has settings of other
        sections.
        """
        composed, section, own = self._hydra("fft", task), self._section(method), self._section("fft")
        if section is None or own is None or _plain(composed.method) != _plain(own):
            return copy.deepcopy(self._hydra(method, task))
        composed = copy.deepcopy(composed)
        composed.method = section
        return composed

    def _section(self, method: str) -> DictConfig | None:
        """The section `method` in the compositions of a method; None where its file has settings of other sections."""
        if method not in self._sections:
            self._sections[method] = self._new_section(method)
        return self._sections[method]

    def _new_section(self, method: str) -> DictConfig | None:
        if (section := compose.section("method", method)) is not None:
            common = OmegaConf.create(compose.file_settings(compose.CONF / "config.yaml")["method"])
            return cast(DictConfig, OmegaConf.merge(common, section))
        here, reference = self._hydra(method, "uuid"), self._hydra("fft", "uuid")
        same = _plain(here) | {"method": None} == _plain(reference) | {"method": None}
        return here.method if same else None

    def _hydra(self, method: str, task: str) -> DictConfig:
        choice = (method, task, self.scale)
        if choice not in self._composed:
            arguments = [f"method={method}", f"task={task}", f"scale={self.scale}"]
            try:
                self._composed[choice] = compose.composition(arguments)
            except (HydraException, OmegaConfBaseException) as error:
                self._composed[choice] = UnavailableError(explain(error, arguments))
        result = self._composed[choice]
        if isinstance(result, UnavailableError):
            raise result
        return result


def _names(options: tuple[str, ...]) -> set[str]:
    """The names of the settings that arguments set."""
    return {option.partition("=")[0].lstrip("+") for option in options}


def _plain(composed: DictConfig) -> dict[str, Any]:
    """The settings of a composition, without resolving any."""
    values: dict[str, Any] = OmegaConf.to_container(composed)  # type: ignore[assignment]
    return values


@cache
def protocols(scale: str) -> Protocols:
    """The settings of a scale, composed once in a process."""
    return Protocols(scale)
