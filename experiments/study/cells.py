"""A cell of the paper at a scale -> the configuration that fills it, and the key its records must have.

Configurations are composed by Hydra from conf/, exactly as run.py does it. A composition costs tens of milliseconds and
a page of tables needs a hundred, so a task and a method are composed once each and put together where that is the same
thing (a test compares with the direct way).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import paper
from ..errors import ConfigError
from ..identity import NOT_IN_KEY, cell_identity, key_of
from ..paper import Cell
from ..spec import compose
from ..spec.parse import parse
from ..spec.run_config import RunConfig

SINGLE_RANK_TASKS = {"pretrain"}  # the paper has one rank there, 128; a scale's stand-in for it is the protocol's own


class UnavailableError(Exception):
    """This version of the project has no configuration for a cell. The message says what is missing."""


@dataclass(frozen=True)
class Setting:
    """What fills a cell at a scale.

    Attributes:
        arguments: What run.py needs on its command line, the learning rate and the seed aside.
        rank: The rank at this scale; None for methods that have none.
        candidates: Learning rates of the search, in order; empty where nothing is trained.
        use: The rate that run.py takes when none is given; 0 where nothing is trained (there it takes none).
    """

    cell: Cell
    scale: str
    arguments: tuple[str, ...]
    rank: int | None
    operator: str | None
    model: str
    candidates: tuple[float, ...]
    use: float
    identity: dict[str, Any] = field(repr=False, compare=False)

    def key(self, rate: float, seed: int, hardware: dict[str, Any] | None = None) -> str:
        """The key of the run at `rate` and `seed`; `hardware` is a record's own section, where it matters."""
        changed: dict[str, Any] = {"seed": seed}
        if self.candidates:
            changed["training"] = {**self.identity["training"], "learning_rate": rate}
        if hardware is not None:
            kept = {k: v for k, v in hardware.items() if k not in NOT_IN_KEY["hardware"] and v is not None}
            changed["hardware"] = kept
        return key_of({**self.identity, **changed})

    @cached_property
    def command(self) -> str:
        return " ".join(["python", "run.py", *self.arguments])


class Protocols:
    """Settings of cells at one scale."""

    def __init__(self, scale: str) -> None:
        compose.register()
        self.scale = scale
        self._composed: dict[tuple[str, str, str], DictConfig | UnavailableError] = {}
        self._settings: dict[Cell, Setting | UnavailableError] = {}

    def setting(self, cell: Cell) -> Setting:
        """The configuration of `cell`.

        Raises:
            UnavailableError: There is no such method, task or protocol here, or it does not fit.
        """
        if cell not in self._settings:
            try:
                self._settings[cell] = self._resolve(cell)
            except UnavailableError as error:
                self._settings[cell] = error
        found = self._settings[cell]
        if isinstance(found, UnavailableError):
            raise found
        return found

    def command(self, cell: Cell) -> str:
        """The command that fills `cell`, with the scale's ranks by name: nothing has to be composed for it."""
        arguments = [f"method={cell.method}", f"task={cell.task}", f"scale={self.scale}"]
        named = {paper.LOW: "'${protocol.ranks.low}'", paper.HIGH: "'${protocol.ranks.high}'"}
        if cell.rank in named:
            arguments.append(f"method.rank={named[cell.rank]}")
        return " ".join(["python", "run.py", *arguments, *self._more(cell)])

    @staticmethod
    def _more(cell: Cell) -> list[str]:
        given = {"method.operator": cell.operator, "model": cell.model}
        return [f"{name}={value}" for name, value in given.items() if value] + list(cell.options)

    def _resolve(self, cell: Cell) -> Setting:
        composed = self._compose(cell.method, cell.task)
        arguments = [f"method={cell.method}", f"task={cell.task}", f"scale={self.scale}"]
        if cell.rank is not None:
            rank = self._rank(cell, composed)
            if rank != composed.protocol.get("rank"):
                arguments.append(f"method.rank={rank}")
            OmegaConf.update(composed, "method.rank", rank)
        composed.merge_with_dotlist(self._more(cell))
        arguments += self._more(cell)
        try:
            parsed = parse(composed)
            identity = cell_identity(parsed)
            candidates = self._candidates(parsed)
        except (ConfigError, OmegaConfBaseException) as error:
            raise UnavailableError(" ".join(str(error).split())) from None
        return Setting(
            cell,
            self.scale,
            tuple(arguments),
            parsed.method.rank,
            parsed.method.operator,
            parsed.model,
            candidates,
            parsed.training.learning_rate or 0.0,
            identity,
        )

    def _rank(self, cell: Cell, composed: DictConfig) -> int:
        """The scale's rank for one of the paper: 8 is `ranks.low`, 256 `ranks.high`, between them by logarithm."""
        assert cell.rank is not None
        if cell.task in SINGLE_RANK_TASKS:
            return composed.protocol.rank
        low, high = composed.protocol.ranks.low, composed.protocol.ranks.high
        position = math.log(cell.rank / paper.LOW) / math.log(paper.HIGH / paper.LOW)
        return round(low * (high / low) ** position)

    @staticmethod
    def _candidates(parsed: RunConfig) -> tuple[float, ...]:
        if parsed.method.family == "none":
            return ()
        table = parsed.protocol["learning_rates"]
        listed = compose.rates(table, parsed.method.family, parsed.method.rank)["candidates"]
        return tuple(sorted(map(float, listed)))

    def _compose(self, method: str, task: str) -> DictConfig:
        """The composition of a method with a task, fresh: the caller may change it."""
        exact = (method, task)
        plain = self._hydra("fft", task)
        # A method file that changes nothing but the `method` section can be put into any task's composition.
        here, reference = self._hydra(method, "uuid"), self._hydra("fft", "uuid")
        if exact in {(method, "uuid"), ("fft", task)} or _without_method(here) != _without_method(reference):
            return copy.deepcopy(self._hydra(method, task))
        put_together = copy.deepcopy(plain)
        OmegaConf.set_struct(put_together, False)
        put_together.method = copy.deepcopy(here.method)
        return put_together

    def _hydra(self, method: str, task: str) -> DictConfig:
        asked = (method, task, self.scale)
        if asked not in self._composed:
            try:
                self._composed[asked] = compose.composition([f"method={method}", f"task={task}", f"scale={self.scale}"])
            except (HydraException, OmegaConfBaseException) as error:
                self._composed[asked] = UnavailableError(" ".join(str(error).split()))
        found = self._composed[asked]
        if isinstance(found, UnavailableError):
            raise found
        return found


def _without_method(composed: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(composed)  # type: ignore[assignment]
    return {name: value for name, value in values.items() if name != "method"}
