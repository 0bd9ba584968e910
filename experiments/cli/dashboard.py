"""What scripts/status.py shows: the runs of a results folder by state, once or again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from ..errors import one_line
from ..store.heartbeats import TRAINING
from ..store.overview import FAILED, FINISHED, INTERRUPTED, RUNNING, Overview, RunState, missing
from ..store.records import Store
from ..study.planning import duration
from . import summary

REDRAW_EVERY = 2.0  # seconds
SHOWN = 10  # finished runs, and missing cells
WIDE = 1000  # characters of a line in a file, where nothing has to fit a screen
Rows = Sequence[Sequence[str]]


def show(results: Path, *, watch: bool = False, cells: Sequence[tuple[str, str]] = ()) -> None:
    """Print the runs of a results folder. On a terminal, `watch` draws them again and again until Ctrl-C.

    Args:
        results: The results folder.
        watch: Whether to go on.
        cells: Name and key of each cell that a study needs. Those of which there is no run are shown as missing.

    Raises:
        ConfigError: The results folder cannot be read.
    """
    overview, terminal = Overview(results), sys.stdout.isatty()
    # Names and messages are text, in which brackets and colons mean nothing to rich.
    console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=None if terminal else WIDE)
    if not (watch and terminal):
        console.print(page(overview, cells))
        return
    try:
        with Live(page(overview, cells), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(REDRAW_EVERY)
                live.update(page(overview, cells), refresh=True)
    except KeyboardInterrupt:
        return


def page(overview: Overview, cells: Sequence[tuple[str, str]] = ()) -> RenderableType:
    """All tables, the most urgent first, since the end of a long page does not fit the screen.

    Raises:
        ConfigError: The results folder cannot be read.
    """
    states, problems = overview.read()
    absent = missing(cells, states)
    by_state = {name: [s for s in states if s.state == name] for name in (RUNNING, FAILED, INTERRUPTED, FINISHED)}
    counts = [f"{len(runs)} {name}" for name, runs in by_state.items()]
    if cells:
        counts.append(f"{len(absent)} missing")
    parts: list[RenderableType] = [f"{overview.store.results}: {', '.join(counts)}"]
    parts += [
        *_table("running", ("run", "step", "loss", "rate", "time left", "who"), _running(by_state[RUNNING])),
        *_table("failed", ("run", "why", "traceback"), _failed(by_state[FAILED], overview.store)),
        *_table("interrupted", ("run", "step", ""), _interrupted(by_state[INTERRUPTED])),
        *_table("missing", ("cell", "key"), absent[:SHOWN], len(absent) - SHOWN),
        *_table(
            "finished", ("run", "result", "training"), _finished(by_state[FINISHED]), len(by_state[FINISHED]) - SHOWN
        ),
    ]
    return Group(*parts, *(f"warning: {one_line(problem)}" for problem in problems))


def _table(title: str, header: Sequence[str], rows: Rows, more: int = 0) -> Iterator[RenderableType]:
    """A table with its title, and a line for what is not shown; nothing where there are no rows."""
    if not rows:
        return
    yield ""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold", header_style="dim")
    for row in rows:
        table.add_row(*map(one_line, row))
    yield table
    if more > 0:
        yield f"... and {more} more"


def _running(runs: Sequence[RunState]) -> Rows:
    rows = []
    for run in runs:
        assert run.sign
        p = run.sign.progress
        loss, rate = ("" if v is None else f"{v:.4g}" for v in (p.loss, p.learning_rate))
        left = p.stage if p.stage != TRAINING or p.seconds_left is None else duration(p.seconds_left)
        who = f"{p.user} on {p.host}, process {p.pid}, since {p.started_at}"
        rows.append((run.name, _step(run), loss, rate, left, who))
    return rows


def _failed(runs: Sequence[RunState], store: Store) -> Rows:
    rows = []
    for run in runs:
        error = (run.record.error if run.record else None) or {}
        why = f"{error.get('type', '')}: {error.get('message', '')}"
        rows.append((run.name, why, str(store.failure(run.key)) if "traceback" in error else ""))
    return rows


def _interrupted(runs: Sequence[RunState]) -> Rows:
    rows = []
    for run in runs:
        where = f" on {run.sign.progress.host}" if run.sign else ""
        rows.append((run.name, _step(run), f"interrupted, last seen {duration(run.age)} ago{where}"))
    return rows


def _finished(runs: Sequence[RunState]) -> Rows:
    rows = []
    records = [run.record for run in runs if run.record]
    for record in sorted(records, key=lambda r: str(r.provenance.get("finished_at")), reverse=True)[:SHOWN]:
        seconds = record.cost.get("seconds")
        rows.append((record.name, summary.headline_text(record), "" if seconds is None else duration(seconds)))
    return rows


def _step(run: RunState) -> str:
    return f"{run.sign.progress.step} of {run.sign.progress.steps}" if run.sign and run.sign.progress.steps else ""
