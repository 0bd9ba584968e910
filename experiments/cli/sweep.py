"""A sweep of run.py: all cells are checked before the first one runs, each is announced, and a table ends the sweep.

Hydra composes all cells before it starts the first, to see whether they can be composed. The check takes the place of
this step, so no cell is composed once more. The check comes before Hydra writes a file into the folder of results.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError, StorageError, one_line
from ..spec import compose, ranks
from ..spec.explanation import explain
from ..spec.parse import parse
from ..spec.run_config import RunConfig
from . import overrides
from .composer import CellComposer

if TYPE_CHECKING:
    from ..store.records import Record

WRONG = (ConfigError, OmegaConfBaseException, StorageError, OSError)  # errors of a user or of the machine
LONGEST = 200  # characters of a cell's settings in a line
HEADER = ("cell", "state", "result", "training")


@dataclass
class SweepCell:
    """One cell of a sweep.

    Attributes:
        settings: The arguments that not all cells share.
        results: The folder of the record.
        key: The key of the run; None for a dry run, and where the key could not be computed.
        finished: Whether the cell was finished before the sweep began.
        code: The exit code of the cell; None before the cell has ended in this process.
    """

    settings: str
    results: Path
    key: str | None = None
    finished: bool = False
    code: int | None = None


class Sweep:
    """The cells of a command line. A command line without a sweep has no cells here, and nothing is printed."""

    def __init__(self) -> None:
        self.cells: list[SweepCell] = []
        self.codes: list[int] = []  # of the cells that have ended in this process
        self.seconds: list[float] = []  # of the cells that ran in this process
        self.submits = False  # whether the cells become jobs of a cluster

    @contextlib.contextmanager
    def checked_first(self) -> Iterator[None]:
        """Within the block, Hydra's own sweeper calls `check` as soon as it knows its cells."""
        original = Plugins.instantiate_sweeper

        def instantiate(plugins: Plugins, **parts: Any) -> Any:
            sweeper: Any = original(plugins, **parts)
            # Hydra loads the class of its sweeper anew, so `isinstance` would not know it. Another sweeper chooses its
            # cells while they run.
            if type(sweeper).__name__ == "BasicSweeper":
                # Hydra's sweeper splits its arguments into cells, makes a folder, and then tests each batch of cells.
                sweeper.split_arguments = functools.partial(self._batches, sweeper, sweeper.split_arguments)
                sweeper.validate_batch_is_legal = lambda batch: None
            return sweeper

        Plugins.instantiate_sweeper = instantiate  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            Plugins.instantiate_sweeper = original  # type: ignore[method-assign]

    def _batches(self, sweeper: Any, split: Callable[..., Any], settings: list[Override], size: int | None) -> Any:
        """The batches of at most `size` cells that Hydra's own sweeper runs. All cells are checked first.

        Raises:
            ConfigError: There is no cell.
            SystemExit: Cells are wrong; one line was printed for each.
        """
        (cells,) = split(settings, None)
        if not cells:
            sweeps = [setting for setting in settings if setting.is_sweep_override()]
            empty = [str(sweep.input_line) for sweep in sweeps if not [*sweep.sweep_string_iterator()]]
            raise ConfigError(f"{', '.join(empty)}: the sweep has no value, so nothing would run")
        self.check(sweeper, cells)
        return [*sweeper.split_overrides_to_chunks(cells, size)]

    def check(self, sweeper: Any, cells: Sequence[list[str]]) -> None:
        """Compose and check every cell of Hydra's own sweeper.

        Args:
            sweeper: The sweeper.
            cells: The arguments of each cell.

        Raises:
            SystemExit: Cells are wrong; one line was printed for each.
        """
        loader = sweeper.hydra_context.config_loader
        compose_cell = CellComposer(loader)
        if type(sweeper.launcher).__name__ == "BasicLauncher":  # composes each cell once more, in this process
            loader.load_sweep_config = compose_cell
        elsewhere = self.submits = "slurm" in str(sweeper.config.hydra.launcher.get("_target_")).lower()
        shared = set(cells[0]).intersection(*cells) if len(cells) > 1 else set()
        refused, before = False, HydraConfig.instance().cfg
        for i, arguments in enumerate(cells):
            settings = " ".join(argument for argument in arguments if argument not in shared)[:LONGEST]
            try:
                self.cells.append(_checked(settings, _composed(compose_cell, sweeper, arguments, i), elsewhere))
            except Exception as error:
                refused = True
                which = f"cell {i + 1} of {len(cells)} ({settings}): " if len(cells) > 1 else ""
                if ranks.first():
                    print(f"error: {one_line(which + explain(error, arguments))}", file=sys.stderr)
        HydraConfig.instance().cfg = before
        if refused:
            self.cells = []
            raise SystemExit(2)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Print which cell of how many the block runs, and about how long the sweep will still take."""
        cell, number = None, 0
        if self.cells:
            number = HydraConfig.get().job.num
            cell = self.cells[number]
            if len(self.cells) > 1 and ranks.first():
                print(announcement(number, len(self.cells), cell.settings, self.left(number)), flush=True)
        start, before = time.monotonic(), len(self.codes)
        yield
        if cell and len(self.codes) > before:
            cell.code = self.codes[-1]
            if not cell.finished:
                self.seconds.append(time.monotonic() - start)

    def left(self, number: int) -> float | None:
        """Seconds until the sweep ends, from cell `number` on; None before a cell has run."""
        unfinished = sum(not cell.finished for cell in self.cells[number:])
        return fmean(self.seconds) * unfinished if self.seconds else None

    def show(self) -> None:
        """Print the table of the cells at the end of a sweep."""
        if len(self.cells) > 1 and any(cell.key for cell in self.cells) and ranks.first():
            print(table([(cell.settings, _record(cell), _state(cell)) for cell in self.cells]))


def announcement(number: int, count: int, what: str, seconds: float | None) -> str:
    """`cell 3 of 12: method=lora seed=0, about 12 min left`.

    Args:
        number: How many cells come before this one.
        count: The number of all cells.
        what: The cell in words.
        seconds: How long this cell and the cells after it will take; None if nobody knows.
    """
    from ..study.planning import duration

    left = "" if seconds is None else f", about {duration(seconds)} left"
    return f"cell {number + 1} of {count}: {what}{left}"


def table(cells: Sequence[tuple[str, Record | None, str]]) -> str:
    """A row for each cell: its name, its state, its result or what went wrong, the seconds of its training.

    Args:
        cells: What stands for the name where there is no record, the record, the state.
    """
    from tabulate import tabulate

    from ..study.planning import duration
    from . import summary

    rows = []
    for settings, record, state in cells:
        result, seconds = "", None
        if record:
            result = summary.headline_text(record) or (record.error or {}).get("type", "")
            seconds = record.cost.get("seconds")
        rows.append((record.name if record else settings, state, result, "" if seconds is None else duration(seconds)))
    return tabulate(rows, HEADER, disable_numparse=True)


def configuration(composed: DictConfig, *, elsewhere: bool = False) -> RunConfig:
    """The typed and checked configuration of a cell that Hydra has composed.

    Args:
        composed: What Hydra has composed.
        elsewhere: The cell will run on another machine.

    Raises:
        ConfigError: A setting is wrong.
        OmegaConfBaseException: A value cannot be resolved.
    """
    compose.register()  # the process of a cluster's job has not done it
    hydra = HydraConfig.get()
    compose.search([source.path for source in hydra.runtime.config_sources if source.schema == "file"])
    arguments: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    overrides.run_code(arguments)
    launcher, chosen = hydra.launcher, hydra.runtime.choices
    if elsewhere and composed.hardware.processes is None and "tasks_per_node" in launcher:  # the ranks that srun starts
        composed.hardware.processes, composed.hardware.nodes = launcher.tasks_per_node, launcher.nodes
    run = parse(composed, elsewhere=elsewhere)
    if hydra.mode == RunMode.RUN and not run.dry_run and not launcher._target_.endswith("BasicLauncher"):
        raise ConfigError(
            f"hydra/launcher={chosen['hydra/launcher']} (hardware={run.hardware.name}) submits jobs only with -m: "
            "run.py -m ...; or add dry_run=true"
        )
    _refuse_names_of_others(run, chosen)
    return run


def _refuse_names_of_others(run: RunConfig, chosen: Mapping[str, str]) -> None:
    """Refuse a file that has the setting `name` of another file, as it inherits it where it sets none.

    Raises:
        ConfigError: The runs of the file would count as those of another method, task or scale.
    """
    for group, name in (("method", run.method.name), ("task", run.task.name), ("scale", run.scale)):
        if name != chosen[group]:
            raise ConfigError(f"{group}/{chosen[group]}.yaml: name must be {chosen[group]}, got {name}")


def _composed(compose_cell: CellComposer, sweeper: Any, arguments: list[str], number: int) -> DictConfig:
    """What Hydra will compose for a cell. Afterwards `HydraConfig` is the cell's, as it will be when the cell runs."""
    composed = compose_cell(sweeper.config, arguments)
    with read_write(composed), open_dict(composed):
        composed.hydra.job.num = composed.hydra.job.id = number
        composed.hydra.runtime.output_dir = os.path.abspath(str(composed.hydra.sweep.dir))
        HydraConfig.instance().set_config(composed)
        del composed["hydra"]
    return composed


def _checked(settings: str, composed: DictConfig, elsewhere: bool) -> SweepCell:
    """The cell of a composed configuration.

    Raises:
        ConfigError, OmegaConfBaseException, OSError: Something in the configuration is wrong.
    """
    from .. import tasks
    from ..identity import identity_of, key_of

    cell = SweepCell(settings, Path("results"))
    try:
        config = configuration(composed, elsewhere=elsewhere)
        cell.results = Path(config.paths.results)
        tasks.of(config).check(config)
        if not config.dry_run:
            cell.key = key_of(identity_of(config))
            record = _record(cell)
            cell.finished = record is not None and record.status == "finished"
    except WRONG:
        raise
    except Exception:  # a fault of this project, which the cell reports when its turn comes
        cell.key = None
    return cell


def _record(cell: SweepCell) -> Record | None:
    from ..store.records import Store

    with contextlib.suppress(OSError):  # the cell itself says that its record cannot be read
        return Store(cell.results).read(cell.key, quietly=True) if cell.key else None
    return None


def _state(cell: SweepCell) -> str:
    if record := _record(cell):
        return record.status
    return {None: "not run", 0: "finished", 1: "failed", 2: "refused"}.get(cell.code, "failed")
