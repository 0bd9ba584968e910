"""Numbers as words, the same in every output."""

from __future__ import annotations

from .. import tasks
from ..paper import Column
from ..study.fill import Filled
from ..study.statistics import Interval, Summary
from .tables import Comparison, Entry, Made, mean_cost

DASH = "—"
MARKS = {"better": "▲", "worse": "▼", "undecided": ""}
BETTER_RULE = (
    "▲ better, ▼ worse than the reference (LoRA at the same rank; truncation among operators): the 95 % t interval of "
    "the paired differences over common seeds excludes zero. Bold is the best mean of a column and claims nothing."
)


def digits(column: Column) -> int:
    """Digits behind the point of the values in a column."""
    return 1 if tasks.metric(column.task, column.metric).unit == "%" else 2


def value(number: float, column: Column) -> str:
    return f"{number:.{digits(column)}f}"


def mean_sd_n(found: Summary, column: Column) -> str:
    spread = f" ± {value(found.sd, column)}" if found.sd is not None else ""
    return f"{value(found.mean, column)}{spread} ({found.n})"


def published(entry: Entry) -> str:
    return DASH if entry.published is None else value(entry.published, entry.column)


def ours(entry: Entry) -> str:
    """`mean ± sd (n)`, a mark where an interval says better or worse, and the runs that diverged."""
    found = entry.summary
    if found is None:
        return DASH
    mark = MARKS[entry.comparison.verdict] if entry.comparison else ""
    lost = entry.filled.count_diverged(entry.filled.at_selected)
    note = f", {lost} diverged" if lost else ""
    return mean_sd_n(found, entry.column).removesuffix(")") + note + ")" + mark


def interval(found: Interval, column: Column) -> str:
    d = digits(column)
    if found.low is None or found.high is None:
        return f"{found.mean:+.{d}f} (n = {found.n}, no interval)"
    return f"{found.mean:+.{d}f} [{found.low:+.{d}f}, {found.high:+.{d}f}] (n = {found.n})"


def compared(comparison: Comparison, column: Column) -> str:
    return f"{interval(comparison.interval, column)}: {comparison.verdict}"


def rate_search(filled: Filled) -> str:
    """Which rate, from which candidates, by what."""
    selection, setting = filled.selection, filled.setting
    if selection is None or setting is None:
        return DASH
    if not setting.candidates:
        return "not trained"
    parts = []
    for rate in sorted({*setting.candidates, *selection.scores}):
        score = selection.scores.get(rate)
        said = f"{score:.3f}" if score is not None else "failed" if rate in selection.scores else "not run"
        parts.append(f"{rate:g}: {said}")
    finished = [rate for rate, score in selection.scores.items() if score is not None]
    edge = ", at the edge of the search" if len(finished) > 1 and selection.rate in (finished[0], finished[-1]) else ""
    return f"{selection.rate:g} by {selection.by}{edge} ({'; '.join(parts)})"


def counts(filled: Filled) -> str:
    """Finished runs at the selected rate, and what went wrong anywhere in the cell."""
    lost = len(filled.diverged)
    failed = sum(r.status == "failed" and r.key not in filled.diverged for r in filled.records)
    wrong = [f"{lost} diverged"] * bool(lost) + [f"{failed} failed"] * bool(failed)
    text = f"{len(filled.selected)} of {len(filled.records)}"
    return text + (f" ({', '.join(wrong)})" if wrong else "")


def parameters(filled: Filled) -> str:
    found = mean_cost(filled.selected.values(), "trainable_parameters")
    return DASH if found is None else f"{found:,.0f}"


def seconds(filled: Filled) -> str:
    found = mean_cost(filled.selected.values(), "seconds")
    return DASH if found is None else f"{found:,.0f}" if found >= 10 else f"{found:.1f}"


def memory(filled: Filled) -> str:
    found = mean_cost(filled.selected.values(), "peak_memory_bytes")
    return DASH if found is None else f"{found / 2**20:,.0f}"


DETAIL_HEADER = (
    "row", "task", "model", "rank", "operator", "learning rate: loss of the search", "runs",
    "trainable parameters", "seconds", "peak memory, MiB",
)  # fmt: skip


def detail(label: str, filled: Filled) -> tuple[str, ...]:
    """One line about a cell, in the order of DETAIL_HEADER."""
    setting = filled.setting
    assert setting is not None
    return (
        label,
        filled.cell.task,
        setting.model,
        str(setting.rank or DASH),
        setting.operator or DASH,
        rate_search(filled),
        counts(filled),
        parameters(filled),
        seconds(filled),
        memory(filled),
    )


def footnotes(made: Made) -> list[str]:
    """The table's notes: the rule for marks, where curves were read, selection, the paper's own slips."""
    notes = [f"Ours: mean ± standard deviation (n) over seeds, at the {made.scale} scale. {BETTER_RULE}"]
    read = [sorted({s for row in made.entries for s in row[j].steps}) for j in range(len(made.columns))]
    if any(read):
        places = "; ".join(", ".join(map(str, steps)) for steps in read if steps)
        notes.append(f"Curves were read at the measured points nearest to the columns: steps {places}.")
    if any(f.selection and f.setting and f.setting.candidates for _, f in made.details()):
        notes.append(
            "The learning rate is the candidate with the lowest training loss in its run with the lowest seed, as the "
            "mean over the last tenth of the steps; never the candidate with the best reported metric."
        )
    if any(c.stand_in for c in made.columns):
        notes.append(
            "A column marked ours is in place of the paper's metrics, or beside them: the paper has no value for it."
        )
    if made.details():
        notes.append(
            "Seconds are those on the clock of each run's machine, whatever else it did; docs/performance.md compares "
            "methods side by side."
        )
    return notes + list(made.table.footnotes)
