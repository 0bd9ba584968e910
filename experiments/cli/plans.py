"""The plan of studies as scripts use it: their cells, what is missing, and running it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from tabulate import tabulate
from yaml import YAMLError

from .. import redact, tasks
from ..errors import ConfigError
from ..identity import makes_another_cell
from ..paper import Cell
from ..spec import compose
from ..spec.arguments import argument, settings
from ..spec.explanation import explain
from ..spec.parse import checked, typed
from ..spec.run_config import Hardware
from ..store import heartbeats
from ..store.folder import read_records
from ..store.records import Store
from ..study import planning, start, study_file
from ..study.cells import Protocols, UnavailableError
from ..study.fill import Results
from ..study.layout import TRAINING_LOSS, Study
from ..study.planning import Attempted, Plan
from . import script
from .costs import Costs

HEADER = ("row", "task", "stage", "states", "learning rate", "still to run")
DEFAULT_SCALE = "laptop"
REFUSED = {
    "method": "--method chooses among the rows of the study",
    "task": "--task chooses among the columns of the study",
    "scale": "--scale",
    "seed": "--seeds",
    "dry_run": "run.py dry_run=true",
    "paths.results": "--results",
    "experiment": "a study file",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about seeds and the search, and what is to be done."""
    parser.add_argument(
        "--seeds", type=script.seeds, help="how many, such as 3, or which, such as 0,1,2 (default: the study's)"
    )
    parser.add_argument(
        "--rate-search",
        choices=planning.SEARCHES,
        default=planning.WIDENED,
        help="on: add rates while the best rate is at the edge; listed: only the candidates of the protocol; off: only "
        "the rate that the protocol names under `use`",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--run", action="store_true", help="run the missing runs")
    action.add_argument("--print", choices=("hydra", "slurm"), help="print the commands of the runs that can start now")


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its label in a study, and the seeds of the study."""

    label: str
    cell: Cell
    seeds: tuple[int, ...]


class StudyPlan:
    """What studies need at one scale, by the records of a folder of results.

    `run` writes the file of a study that no folder of configuration files holds into the folder of results, where
    tables, figures and the page find the file.

    Args:
        studies: The studies. Settings that make other cells make other studies of them.
        options: The options of the script: `scale`, `results`, `seeds`, `rate_search`, and `settings`, which are
            arguments for run.py.

    Raises:
        ConfigError: The studies have no scale in common, or a setting is not for a plan to set.
    """

    def __init__(self, studies: Sequence[Study], options: argparse.Namespace) -> None:
        self.options = options
        self.scale = self._scale(studies)
        self.protocols = Protocols(self.scale)
        self.warned: set[str] = set()
        own, common = self._divided(options.settings)
        folder = getattr(options, "config_dir", None)
        flag = ["--config-dir", str(folder.absolute())] if folder else []
        self.common = common
        self.extra = [argument("paths.results", str(options.results)), *common, *flag]
        self.studies = [study_file.changed(study, own) for study in studies] if own else list(studies)
        self.cells = self._cells()
        self._check_copy(common)
        self.results = self.read()
        for line in self.unmeasured():
            print(f"warning: {line}", file=sys.stderr)

    def _scale(self, studies: Sequence[Study]) -> str:
        chosen = {study.scale for study in studies if study.scale}
        if len(chosen) > 1:
            raise ConfigError(f"one scale at a time, and these studies need {' and '.join(sorted(chosen))}")
        for study in studies:
            study.check_scales([self.options.scale] if self.options.scale else [])
        return self.options.scale or (chosen.pop() if chosen else DEFAULT_SCALE)

    @staticmethod
    def _divided(arguments: Sequence[str]) -> tuple[dict[str, object], list[str]]:
        """The settings that make other cells, by name, and the arguments that leave every cell what it is."""
        own: dict[str, object] = {}
        common = []
        # The copy of a model has the key of the model; `_check_copy` looks whether the cells have this model.
        is_copy = any(_setting(text)[0] == "model_id" for text in arguments)
        for text in arguments:
            name, _ = _setting(text)
            if instead := REFUSED.get(name):
                raise ConfigError(f"{text} is not for a plan to set: the study does, or {instead}")
            if makes_another_cell(name) and not (is_copy and name in ("model", "model_id")):
                own |= settings([text])
            else:
                common.append(text)
        return own, common

    def _check_copy(self, common: Sequence[str]) -> None:
        """Refuse the copy of another model than that of the cells: its runs would fill none of them.

        Raises:
            ConfigError: A cell has another model.
        """
        for text in (text for text in common if _setting(text)[0] == "model_id"):
            _, model = _setting(text)
            models = set()
            for planned in self.cells:
                with contextlib.suppress(UnavailableError):  # the plan names a cell that cannot be planned
                    models.add(self.protocols.setting(planned.cell).model)
            if models - {model}:
                raise ConfigError(f"{text}: the model of these cells is {', '.join(sorted(models))}")

    def unmeasured(self) -> list[str]:
        """A line for each column, and for the curve, of a study that no run of the study measures by itself."""
        lines = []
        for study in self.studies:
            here, measured = study.at(self.scale), {TRAINING_LOSS}
            for column in here.columns:
                with contextlib.suppress(UnavailableError):
                    config = self.protocols.setting(here.cell(here.rows[0], column)).config
                    assert config is not None
                    task = tasks.get(config.task.name)
                    selects = [task.criterion(in_training=early).metric for early in (False, True)]
                    known = list(
                        dict.fromkeys([*(m.name for m in task.metrics_of(config.task)), *filter(None, selects)])
                    )
                    measured |= {column.metric, *known}
                    if column.metric not in known:
                        lines.append(
                            f"study {study.name}: a run of task={task.name} with these settings does not measure "
                            f"{column.metric} by itself; a run measures {', '.join(known)}"
                        )
            if len(measured) > 1 and study.curve not in measured:
                lines.append(f"study {study.name}: no run measures its curve, {study.curve}")
        return list(dict.fromkeys(lines))

    def _cells(self) -> list[PlannedCell]:
        cells: dict[Cell, PlannedCell] = {}
        for study in self.studies:
            here = study.at(self.scale)
            seeds = tuple(self.options.seeds or study.seeds)
            for row in here.rows:
                for column in here.columns:
                    label = row.label + (f", r = {column.rank}" if column.rank else "")
                    cell = here.cell(row, column)
                    cells.setdefault(cell, PlannedCell(label, cell, seeds))
        return list(cells.values())

    def only(self, task_names: Sequence[str] | None, method_names: Sequence[str] | None) -> None:
        """Leave out the cells of other tasks and methods; None: all.

        Raises:
            ConfigError: No cell is left.
        """
        self.cells = [c for c in self.cells if task_names is None or c.cell.task in task_names]
        self.cells = [c for c in self.cells if method_names is None or c.cell.method in method_names]
        if not self.cells:
            raise ConfigError("no cell of these studies has this --task and this --method")

    def read(self) -> Results:
        """The records as they are now. Prints a warning for each new file that is no readable record."""
        folder = self.options.results
        records, problems = read_records(folder) if folder.exists() else ([], [])
        for problem in sorted(set(problems) - self.warned):
            print(f"warning: {problem}", file=sys.stderr)
        self.warned.update(problems)
        self.alive = heartbeats.alive(Store(folder).progress_folder)
        return Results(self.scale, records, self.protocols)

    def plan(self, planned: PlannedCell, results: Results, abandoned: Attempted = frozenset()) -> Plan:
        """What a cell needs by these results."""
        search = self.options.rate_search
        return planning.plan(planned.cell, results, planned.seeds, search=search, abandoned=abandoned, alive=self.alive)

    def states(self) -> list[tuple[str, Plan]]:
        """The label and the plan of each cell."""
        return [(c.label, self.plan(c, self.results)) for c in self.cells]

    def warn_of_refusals(self, states: Sequence[tuple[str, Plan]]) -> None:
        """Print a warning for each cell with missing runs that run.py will refuse for the settings of all cells."""
        hardware: dict[str, Hardware] = {}
        lines = []
        for label, plan in states if self.common else []:
            if plan.setting and planning.count_of_runs(plan):
                config = plan.setting.config
                assert config is not None
                arguments = [*plan.setting.arguments, *self.common]
                try:
                    if plan.cell.task not in hardware:
                        hardware[plan.cell.task] = typed(compose.composition(arguments)).hardware
                    checked(config.replace(hardware=hardware[plan.cell.task]), elsewhere=True)
                except ConfigError as error:
                    reason = f"run.py will refuse the runs with {' '.join(self.common)}: {error}"
                    lines.append(f"warning: {label} on {plan.cell.task}: {reason}")
                except HydraException as error:  # such as a launcher that is not installed here
                    lines.append(f"warning: run.py will refuse the runs here: {explain(error, arguments)}")
        for line in dict.fromkeys(lines):
            print(line, file=sys.stderr)

    def show(self) -> int:
        """Print the table of the cells, and what cannot be planned. Gives the exit code."""
        states, costs = self.states(), Costs(self.results.records)
        self.warn_of_refusals(states)
        rows = [
            (
                label,
                p.cell.task,
                p.stage,
                planning.states(p) if p.setting else "cannot be planned, see below",
                p.selection,
                costs.of_cell(p),
            )
            for label, p in states
        ]
        print(tabulate(rows, HEADER, disable_numparse=True))
        print(costs.total([p for _, p in states]))
        for line in self.notes(states):
            print(line)
        return 1 if any(p.unavailable for _, p in states) else 0

    # Doing it.

    def commands(self, form: str) -> str:
        """The commands of the runs that can start now: `hydra` lines, or a `slurm` script."""
        if form == "slurm" and (submitting := [text for text in self.common if _submits(*_setting(text))]):
            raise ConfigError(
                f"--print slurm: the script is a job itself, and {submitting[0]} would submit further jobs from it; "
                "allowed: another hardware, such as hardware=gpu, and no launcher of jobs"
            )
        states = self.states()
        self.warn_of_refusals(states)
        plans = [plan for _, plan in states]
        if form == "slurm":
            return start.slurm_script(plans, self.extra)
        return "".join(f"{line}\n" for line in start.hydra_lines(plans, self.extra))

    @staticmethod
    def refuse_bad_cells(states: Sequence[tuple[str, Plan]]) -> None:
        """Find a bad cell before the first one runs.

        Raises:
            ConfigError: A cell cannot be planned.
        """
        bad = [f"{label} on {plan.cell.task}: {plan.unavailable}" for label, plan in states if plan.unavailable]
        if bad:
            more = f"; and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise ConfigError(f"nothing was run, since a cell cannot be planned: {bad[0]}{more}")

    @redact.streams(best_effort=True)
    def run(self, say: Callable[[str], None]) -> int:
        """Run what is missing, and end with a table of the cells. Gives the exit code.

        A line that cannot be printed is lost, and the runs go on.

        Raises:
            ConfigError: A cell cannot be planned; nothing was run.
        """
        states = self.states()
        self.refuse_bad_cells(states)
        self.warn_of_refusals(states)
        for study in self.studies:
            if study.name not in study_file.names():  # no folder of configuration files holds the study
                say(f"study {study.name}: {study_file.keep(study, self.options.results)}")
        labels = [c.label for c in self.cells]

        def replan(i: int, attempted: Attempted) -> Plan:
            self.results = self.read()
            return self.plan(self.cells[i], self.results, attempted)

        def time_left() -> str:
            return Costs(self.results.records).time_left([plan for _, plan in self.states()])

        code = start.run_all(labels, replan, self.extra, say, time_left=time_left)
        self.results = self.read()
        rows = [(label, planning.states(p), p.selection) for label, p in self.states()]
        say("\n" + tabulate(rows, ("row", "runs", "learning rate"), disable_numparse=True))
        if code == 1:
            say("not everything was run: the lines above and the records say why")
        return code

    def notes(self, plans: Sequence[tuple[str, Plan]]) -> list[str]:
        """A line for each cell that cannot be planned, needs no run, or has only a record of other settings."""
        lines = []
        for label, plan in plans:
            if plan.unavailable:
                lines.append(f"{label} on {plan.cell.task} cannot be planned: {plan.unavailable}")
            elif plan.misfit:
                lines.append(f"{label} on {plan.cell.task} has no run: {plan.misfit}")
            elif record := self.results.cell(plan.cell).nearest:
                lines.append(f"no run of {label} on {plan.cell.task}; the nearest record is {record}")
        return lines


def _setting(text: str) -> tuple[str, Any]:
    """The setting of an argument, without the signs in front of its name, and its value."""
    ((name, value),) = settings([text]).items()
    return name.lstrip("+"), value


def _submits(name: str, value: Any, below: tuple[str, ...] = ()) -> bool:
    """Whether run.py submits jobs with this setting: the launcher, or hardware whose file chooses such a launcher.

    Args:
        name: The setting, or an entry in the list `defaults` of a file of hardware.
        value: Its value.
        below: The hardware whose files inherit from this one.
    """
    if name.removeprefix("override ").lstrip("/") == "hydra/launcher":
        return str(value).startswith("submitit_")
    file = compose.file_of("hardware", str(value)) if name == "hardware" and value not in below else None
    defaults: Any = []
    with contextlib.suppress(OSError, ValueError, YAMLError):  # Hydra says what is wrong with the file
        defaults = compose.file_settings(file).get("defaults", []) if file else []
    entries = [{"hardware": e.partition("@")[0]} if isinstance(e, str) else e for e in defaults or []]
    parents = [parent for entry in entries if isinstance(entry, dict) for parent in entry.items()]
    return any(_submits(str(choice), chosen, (*below, value)) for choice, chosen in parents)
