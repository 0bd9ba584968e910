"""What has to be run to fill cells: the search over learning rates first, then the seeds at the selected one.

The search runs every candidate rate with the first seed. When each rate has been tried, `fill.Selection` selects one.
While the selected rate is the lowest or the highest that was tried, the search goes on by one more rate beyond it, for
every method alike (`rates.beyond`). Then the other seeds run at the selected rate. A run that diverged counts as tried
and is not run again. A run that failed for another reason is run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from .. import tasks
from ..paper import Cell
from . import measures, rates
from .cells import CellSetting, UnavailableError
from .fill import FilledCell, Results, Selection

DONE, DIVERGED, FAILED, MISSING = "done", "diverged", "failed", "missing"
RUNNING, INTERRUPTED = "running", "interrupted"
STATES = (DONE, DIVERGED, RUNNING, FAILED, INTERRUPTED, MISSING)
SEARCH, SEEDS, SINGLE = "search", "seeds", "run"
SEARCHES = WIDENED, LISTED, OFF = "on", "listed", "off"
BRACKETS = 3  # rates at least, for the best one to lie between others

Attempted = Set[str]  # keys of runs


@dataclass(frozen=True)
class PlannedRun:
    """One run of a stage, with its state."""

    rate: float
    seed: int
    state: str
    abandoned: bool = False

    @property
    def needed(self) -> bool:
        """Whether the run is still to be done."""
        return self.state not in (DONE, DIVERGED) and not self.abandoned


@dataclass(frozen=True)
class Plan:
    """What a cell needs now.

    Attributes:
        stage: "search", "seeds", or "run" where there is nothing to search.
        runs: The runs of this stage and of the stages before.
        later: How many runs follow at least: at further rates of the search, and with the other seeds when the search
            has ended. Their rates are not known before.
        widens: Whether the search may go on by more rates than these.
        selection: How the rate of the seeds was, or will be, chosen.
        unavailable: Why the cell cannot be planned at all; empty where it can.
        misfit: Why the cell needs no run: its method cannot spend the budget on the model. Empty for other cells.
    """

    cell: Cell
    setting: CellSetting | None
    stage: str
    runs: tuple[PlannedRun, ...]
    later: int = 0
    widens: bool = False
    selection: str = ""
    unavailable: str = ""
    misfit: str = ""

    @property
    def needed(self) -> list[PlannedRun]:
        """The runs of the stage that are still to be done."""
        return [r for r in self.runs if r.needed]


def plan(
    cell: Cell,
    results: Results,
    seeds: Sequence[int],
    *,
    search: str = WIDENED,
    abandoned: Attempted = frozenset(),
    alive: Set[str] = frozenset(),
) -> Plan:
    """The state of a cell and its next stage.

    Args:
        cell: The cell.
        results: The records of the scale.
        seeds: The seeds of the table; the search uses the first.
        search: One of SEARCHES. `on` tries the protocol's candidates, and more where the best one lies at the edge;
            `listed` tries the protocol's candidates alone; `off` takes the protocol's `use` rate without a search.
        abandoned: Runs that are not tried again, so that one failed candidate does not stop the seeds of the others.
        alive: The keys of the runs whose processes are running now.
    """
    try:
        setting = results.protocols.setting(cell)
    except UnavailableError as error:
        return Plan(cell, None, SINGLE, (), unavailable=str(error))
    if misfit := results.misfit(cell):
        return Plan(cell, setting, SINGLE, (), misfit=misfit)
    if search == WIDENED and not setting.widens:
        search = LISTED
    if setting.searched and search != OFF:
        return _plan_of_variants(setting, results, seeds, search, abandoned, alive)
    both, first = results.both(cell), seeds[0]
    filled = both[0]

    def run(rate: float, seed: int) -> PlannedRun:
        key = setting.key(rate, seed)
        return PlannedRun(rate, seed, _state(filled, rate, seed, key in alive), key in abandoned)

    if not setting.candidates:
        return Plan(cell, setting, SINGLE, (run(setting.default_rate, first),), selection="nothing is trained")
    if search == OFF:
        rate = setting.default_rate
        tried = tuple(run(rate, s) for s in seeds)
        return Plan(cell, setting, SEEDS, tried, selection=f"{rate:g}: the protocol's rate, not searched")
    by = f"by {' and by '.join(tasks.get(cell.task).criterion(in_training=f.in_training).label for f in both)}"
    tried = tuple(run(rate, first) for rate in _rates_of_the_search(setting, filled, first, search))
    if any(r.needed for r in tried):
        further = max(0, BRACKETS - len(tried)) if search == WIDENED else 0
        return Plan(cell, setting, SEARCH, tried, further + len(seeds) - 1, search == WIDENED, by)
    selections = [f.selection for f in both if f.selection]
    if not selections:
        return Plan(cell, setting, SEARCH, tried, selection="no candidate finished")
    wider = [rate for selection in selections for rate in _wider(setting, selection)] if search == WIDENED else []
    more = [run(rate, first) for rate in dict.fromkeys(wider)]
    if any(r.needed for r in more):
        doubts = dict.fromkeys(s.doubt for s in selections if s.doubt)
        return Plan(cell, setting, SEARCH, (*tried, *more), len(seeds) - 1, True, f"{by}; {'; '.join(doubts)} so far")
    known = {(r.rate, r.seed) for r in tried}
    chosen: dict[float, list[Selection]] = {}
    for selection in selections:
        chosen.setdefault(selection.rate, []).append(selection)
    rest = tuple(run(rate, s) for rate in chosen for s in seeds if (rate, s) not in known)
    return Plan(cell, setting, SEEDS, tried + rest, selection=", and ".join(map(_chosen, chosen.values())))


def _chosen(selections: Sequence[Selection]) -> str:
    """`rate by what; doubt`: the same rate, and the same doubt, of all the selections."""
    first = selections[0]
    by = " and by ".join(dict.fromkeys(selection.by for selection in selections))
    return f"{first.rate:g} by {by}{f'; {first.doubt}' if first.doubt else ''}"


def _plan_of_variants(
    setting: CellSetting,
    results: Results,
    seeds: Sequence[int],
    search: str,
    abandoned: Attempted,
    alive: Set[str],
) -> Plan:
    """The plan of a cell whose protocol searches further settings: each variant's search, then the best one's seeds."""
    plans = [plan(v, results, seeds, search=search, abandoned=abandoned, alive=alive) for v in setting.variants]
    if bad := next((p for p in plans if p.unavailable), None):
        return bad
    searches = [p for p in plans if p.stage == SEARCH and p.needed]
    if searches:
        first, *rest = searches
        others = sum(len(p.needed) for p in rest)
        return replace(first, later=first.later + others, selection=f"{first.selection}, of {len(plans)} variants")
    best = {filled.cell for filled in results.both(setting.cell)}
    # Without any record no variant is the best one; the first variant then says what did not finish.
    chosen = sorted((p for p in plans if p.cell in best), key=lambda p: not p.needed) or plans[:1]
    first, *rest = chosen
    others = sum(len(p.needed) for p in rest)
    return replace(first, later=others, selection=f"{first.selection}, the best of {len(plans)} variants")


def _rates_of_the_search(setting: CellSetting, filled: FilledCell, seed: int, search: str) -> list[float]:
    """The protocol's candidates, and those beyond them that the search has gone on to already."""
    further = {*rates.beyond(setting.candidates, False), *rates.beyond(setting.candidates, True)}
    begun = {rate for rate in further if search == WIDENED and seed in filled.runs.get(rate, {})}
    return sorted({*setting.candidates, *begun})


def _wider(setting: CellSetting, selection: Selection) -> list[float]:
    """The next rates beyond the selected one, where that is the lowest or the highest that was tried.

    Empty where rates on both sides have been tried, or where the search has gone as far as it may.
    """
    wider = []
    for upward, edge in ((False, "lowest"), (True, "highest")):
        if rates.edge(selection.rate, selection.tried) in (edge, "only one"):
            further = sorted({*setting.candidates, *rates.beyond(setting.candidates, upward)}, reverse=not upward)
            wider += [r for r in further if (r > selection.rate if upward else r < selection.rate)][:1]
    return wider


def _state(filled: FilledCell, rate: float, seed: int, alive: bool) -> str:
    record = filled.runs.get(rate, {}).get(seed)
    if record and record.status == "finished":
        return DONE
    if record and measures.diverged(record):
        return DIVERGED
    if alive:  # there may be no record yet, or that of an earlier failure
        return RUNNING
    if record is None:
        return MISSING
    # A record that says `running` is of a run whose process was killed, or of another host that has been silent.
    return FAILED if record.status == "failed" else INTERRUPTED


def sweeps(plan: Plan) -> list[list[PlannedRun]]:
    """The needed runs as sweeps that one Hydra multirun can express: several rates at one seed, or seeds at a rate."""
    by_seed: dict[int, list[PlannedRun]] = {}
    by_rate: dict[float, list[PlannedRun]] = {}
    for run in plan.needed:
        if plan.stage == SEARCH:
            by_seed.setdefault(run.seed, []).append(run)
        else:
            by_rate.setdefault(run.rate, []).append(run)
    return [*by_seed.values(), *by_rate.values()]


def arguments(setting: CellSetting, runs: Sequence[PlannedRun]) -> list[str]:
    """What run.py needs to do `runs`, as a sweep."""
    rates = ",".join(dict.fromkeys(f"{r.rate!r}" for r in runs))
    seeds = ",".join(dict.fromkeys(str(r.seed) for r in runs))
    rate = [f"training.learning_rate={rates}"] if setting.candidates else []
    return ["-m", *setting.arguments, *rate, f"seed={seeds}"]


def count_of_runs(plan: Plan) -> int:
    """How many runs a cell still needs, those of later stages too; while a search may widen, the fewest."""
    return len(plan.needed) + plan.later


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def states(plan: Plan) -> str:
    """How many runs are in which state."""
    if plan.misfit:
        return "a dash: does not fit its budget"
    counted = Counter(r.state for r in plan.runs)
    return ", ".join(f"{counted[s]} {s}" for s in STATES if counted[s])
