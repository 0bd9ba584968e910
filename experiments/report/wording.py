"""The text of values, differences, searches and costs, the same in every output."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .. import tasks
from ..store.records import Record
from ..study import measures, rates
from ..study.fill import FilledCell
from ..study.layout import Column, Study
from ..study.statistics import RULE, UNDECIDED, Interval, summary
from . import tables
from .tables import COSTS, UNSPENT, Comparison, FilledTable, TableEntry, cost_cells, mean_cost, spent_share

if TYPE_CHECKING:
    import pandas

DASH = "—"
MARKS = {"better": "▲", "worse": "▼", UNDECIDED: ""}
RANK_LABEL = "singular values of the update above 0.1"
MOST_DIGITS = 15
BEST_RULE = "Bold marks the best mean of a column, certain or not."


def better_rule(study: Study) -> str:
    """What the marks of a table say."""
    if not study.references:
        return BEST_RULE
    first = study.references[0]
    rank = " at the same rank" if len(study.rows_of(first)) > 1 else ""
    return (
        f"▲ better, ▼ worse than {first}{rank}: the {RULE} "
        "excludes zero, still does after Holm's correction for the rows of the column, lower and higher learning rates "
        f"were tried for each of the two that is trained, and no run at the selected rate diverged. {BEST_RULE}"
    )


def digits(column: Column, *numbers: float) -> int:
    """Decimal places of numbers in a column: so many that the largest one has two digits that are not zero.

    A percentage has one, unless it would then be 0.0.
    """
    largest = max(map(abs, numbers), default=0.0)
    if column.info.unit == "%" and not 0 < largest < 0.05:
        return 1
    return 2 if largest >= 0.1 or largest == 0 else min(MOST_DIGITS, 1 - math.floor(math.log10(largest)))


def value(number: float, column: Column) -> str:
    """A value with the decimal places of its column."""
    return f"{number:.{digits(column, number)}f}"


def paper_value(entry: TableEntry) -> str:
    """The paper's value of an entry; a dash where the paper has none."""
    return DASH if entry.paper_value is None else value(entry.paper_value, entry.column)


def ours(entry: TableEntry) -> str:
    """`mean ± sd (n)`, the number of diverged runs, and the mark of `better_rule`."""
    summary, column = entry.summary, entry.column
    if summary is None:
        return DASH
    places = digits(column, summary.mean)
    if summary.sd and column.info.unit != "%" and round(summary.sd, places) == 0:  # ± 0.00 would say no deviation
        places = min(MOST_DIGITS, -math.floor(math.log10(summary.sd)))
    spread = f" ± {summary.sd:.{places}f}" if summary.sd is not None else ""
    diverged = entry.filled.count_diverged(entry.filled.at_selected)
    note = f", {diverged} diverged" if diverged else ""
    mark = MARKS[entry.comparison.verdict] if entry.comparison else ""
    return f"{summary.mean:.{places}f}{spread} ({summary.n}{note}){mark}"


def interval(found: Interval, column: Column, *, signed: bool = True) -> str:
    """`mean difference [low, high]`, or the mean alone where there is no interval."""
    ends = [number for number in (found.mean, found.low, found.high) if number is not None]
    form = f"{'+' if signed else ''}.{digits(column, *ends)}f"
    if found.low is None or found.high is None:
        return f"{found.mean:{form}}"
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def difference(comparison: Comparison, column: Column, escape: Callable[[str], str] = str) -> str:
    """`mean difference [low, high] (n = seeds): verdict (reasons)`; `escape` as in `cells`, for the reasons."""
    found = comparison.interval
    reasons = f" ({escape('; '.join(comparison.reasons))})" if comparison.reasons else ""
    return f"{interval(found, column)} (n = {found.n}): {comparison.verdict}{reasons}"


def cells(table: FilledTable, bold: str, escape: Callable[[str], str] = str) -> pandas.DataFrame:
    """The results as text: a row for each method, the columns (label, "paper") and (label, "ours").

    A column without values of the paper is (label, "").

    Args:
        table: The table.
        bold: The template for the best value of a column, such as `**%s**`.
        escape: Makes a text harmless in the output's format.
    """
    import pandas

    columns: list[tuple[tuple[str, str], list[str]]] = []
    for j, column in enumerate(table.columns):
        entries = [row[j] for row in table.entries]
        label, of_paper = escape(column.label), table.has_paper_values(j)
        if of_paper:
            columns.append(((label, "paper"), [escape(paper_value(e)) for e in entries]))
        own = [(bold if e.best else "%s") % escape(ours(e)) for e in entries]
        columns.append(((label, "ours" if of_paper else ""), own))
    is_of_paper = table.layout.is_of_paper
    rows = [row[0].row for row in table.entries]
    labels = [row.label + (" (not in the paper)" if is_of_paper and not row.in_paper else "") for row in rows]
    names, values = zip(*columns, strict=True)
    index = list(map(escape, labels))
    return pandas.DataFrame(zip(*values, strict=True), index=index, columns=pandas.MultiIndex.from_tuples(names))


def header(cells: pandas.DataFrame) -> list[str]:
    """The header of `cells` in one row: the label of a column, and `: paper` or `: ours` where there are both."""
    return ["", *(": ".join(filter(None, name)) for name in cells.columns)]


def rate_search(filled: FilledCell) -> str:
    """`selected rate by number (each candidate: its number)`, and whether the rate is the lowest or highest tried."""
    selection, setting = filled.selection, filled.setting
    if selection is None or setting is None:
        return DASH
    if not setting.candidates:
        return "not trained"
    candidates = []
    for rate in sorted({*setting.candidates, *selection.scores}):
        score = selection.scores.get(rate)
        run = filled.runs.get(rate, {}).get(selection.seed)
        candidates.append(f"{rate:g}: {_score(score) if score is not None else _unscored(filled, run)}")
    edge = rates.edge(selection.rate, selection.tried)
    doubt = f", the {edge} that was tried" if edge in ("lowest", "highest") else ""
    return f"{selection.rate:g} by {selection.by}{doubt} ({'; '.join(candidates)}){_variants(filled)}"


def _unscored(filled: FilledCell, run: Record | None) -> str:
    """What became of a run without a number of the search."""
    if run is None:
        return "not run"
    if run.key in filled.diverged:
        return "diverged"
    return "no value" if run.status == "finished" else run.status


def _score(number: float) -> str:
    """A number of a search: as many digits as tell rates apart whose loss is almost zero."""
    return f"{number:.4g}" if abs(number) < 1 else f"{number:.3f}"


def _variants(filled: FilledCell) -> str:
    """`; chosen values of each variant: its number`, where the search went over further settings; else empty."""
    numbers = []
    for variant in filled.variants:
        selection = variant.selection
        score = selection.scores[selection.rate] if selection else None
        ends = dict.fromkeys(_unscored(variant, run) for run in variant.records) or ["not run"]
        numbers.append(f"{_chosen(variant, filled)}: {' and '.join(ends) if score is None else _score(score)}")
    return f"; {_chosen(filled, filled)} of {'; '.join(numbers)}" if numbers else ""


def _chosen(variant: FilledCell, filled: FilledCell) -> str:
    """The arguments of a variant that not all variants of a cell share."""
    shared = set.intersection(*(set(other.cell.options) for other in filled.variants))
    return " ".join(option for option in variant.cell.options if option not in shared) or "the only value"


def counts(filled: FilledCell) -> str:
    """How many of the cell's runs have finished at the selected rate, and how many have diverged or failed."""
    diverged = len(filled.diverged)
    failed = sum(r.status == "failed" and r.key not in filled.diverged for r in filled.records)
    notes = [f"{number} {what}" for number, what in ((diverged, "diverged"), (failed, "failed")) if number]
    text = f"{len(filled.selected)} of {len(filled.records)}"
    return text + (f" ({', '.join(notes)})" if notes else "")


def costs(filled: FilledCell) -> dict[str, str]:
    """Name of a cost -> its mean over the runs at the selected rate: parameters, seconds, memory in MiB."""
    means = {name: mean_cost(filled.selected.values(), name) for name in COSTS}
    texts = {name: DASH if mean is None else _cost(name, mean) for name, mean in means.items()}
    share = spent_share(filled.selected.values())
    if share is not None and not UNSPENT <= share <= 1:
        texts["trainable_parameters"] += f" ({100 * share:.{int(share > 1)}f} % of the budget)"
    return texts


def row_costs(row: tuple[TableEntry, ...]) -> dict[str, str]:
    """Name of a cost -> its text for each of the different cells of a row; equal texts once."""
    texts = [costs(cell) for cell in cost_cells(row)]
    return {name: "; ".join(dict.fromkeys(text[name] for text in texts)) for name in COSTS}


def _cost(name: str, mean: float) -> str:
    if name == "seconds" and mean < 10:
        return f"{mean:.1f}"
    return f"{mean / 2**20 if name == 'peak_memory_bytes' else mean:,.0f}"


DETAIL_HEADER = (
    "row", "task", "model", "rank", "operator", "learning rate: result of the search", "runs",
    "trainable parameters", "seconds", "peak memory, MiB", RANK_LABEL,
)  # fmt: skip


def details(table: FilledTable) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """How each row of a table was run: the header, and a line for each cell.

    The last column stands only where a run recorded the singular values of its update.
    """
    lines = [_detail(label, cell) for label, cell in table.details()]
    width = len(DETAIL_HEADER) - all(line[-1] == DASH for line in lines)
    return DETAIL_HEADER[:width], [line[:width] for line in lines]


def _detail(label: str, filled: FilledCell) -> tuple[str, ...]:
    """One line about a cell, in the order of DETAIL_HEADER."""
    setting = filled.setting
    assert setting is not None
    ranks = [r for run in filled.selected.values() if (r := measures.large_singular_values(run)) is not None]
    rank = summary(ranks)
    return (
        label,
        filled.cell.task,
        setting.model,
        str(setting.rank or DASH),
        setting.operator or DASH,
        rate_search(filled),
        counts(filled),
        *costs(filled).values(),
        f"{rank.mean:.1f}" if rank else DASH,
    )


def sample_notes(table: FilledTable) -> list[str]:
    """What the intervals know of the questions and documents behind the metrics that have values."""
    entries = [e for row in table.entries for e in row if e.values]
    metrics = {(e.column.task, e.column.metric): e.column.info for e in entries}
    asked = list(dict.fromkeys(m.label for m in metrics.values() if m.has_fixed_questions))
    notes = []
    if asked:
        notes.append(
            f"Every seed answers the same questions ({', '.join(asked)}), and records do not hold single answers. An "
            "interval is therefore widened by the variance of two independent samples of so many questions. Where "
            "their number is not known, no difference is marked."
        )
    for (task, name), metric in metrics.items():
        if metric.documents:
            runs = [r for e in entries if (e.column.task, e.column.metric) == (task, name) for r in _runs(e)]
            counts = sorted({c for r in runs if (c := measures.document_count(r, metric))})
            number = f"{' or '.join(map(str, counts))} held-out texts" if counts else "held-out texts"
            notes.append(
                f"The {metric.label} of {task} is measured on {number}, the same for every seed: its interval knows "
                "the seeds, and not what other texts would give."
            )
    return notes


def _runs(entry: TableEntry) -> list[Record]:
    return [entry.filled.selected[seed] for seed in entry.values]


def misfit_notes(table: FilledTable) -> list[str]:
    """Which rows have no value because their method cannot spend so few parameters, and why."""
    misfits = dict.fromkeys((e.row.label, e.misfit) for row in table.entries for e in row if e.misfit)
    return [f"{label} has a dash: {reason}." for label, reason in misfits]


def rank_note(table: FilledTable) -> list[str]:
    """Which ranks stand for those of the paper, which stand in names, where they differ."""
    pairs = {
        (filled.cell.rank, filled.setting.rank)
        for _, filled in table.details()
        if filled.setting and filled.cell.rank and filled.cell.rank != filled.setting.rank
    }
    ranks = ", and ".join(f"r = {here} here stands for r = {paper}" for paper, here in sorted(pairs))
    return [f"The ranks in the names are those of the paper: {ranks}."] if pairs else []


def base_notes(table: FilledTable) -> list[str]:
    """Which base models differ between runs of the same model and seed: that of `make base` differs by machine."""
    revisions: dict[str, dict[int, set[str]]] = {}
    for _, filled in table.details():
        for seed, run in filled.selected.items():
            if revision := run.provenance.get("model_revision"):
                revisions.setdefault(run.cell["model"], {}).setdefault(seed, set()).add(str(revision))
    notes = []
    for model, by_seed in revisions.items():
        if any(len(found) > 1 for found in by_seed.values()):
            names = ", ".join(sorted(set().union(*by_seed.values())))
            notes.append(
                f"Not all runs of {model} started from the same weights (revisions {names}): a difference may be one "
                "of the base models."
            )
    return notes


def format_note(table: FilledTable) -> list[str]:
    """Which number formats the runs of the table have, if they have several."""
    formats = {measures.number_format(run) for _, filled in table.details() for run in filled.selected.values()}
    if len(formats) < 2:
        return []
    return [
        f"The runs trained in different number formats ({', '.join(sorted(formats))}): a difference may be one of the "
        "formats."
    ]


def floor_notes(table: FilledTable) -> list[str]:
    """The floor of each metric that has one: what the best answer gets that knows nothing of the question."""
    notes = []
    entries = [e for row in table.entries for e in row if e.floors]
    metrics = {(e.column.task, e.column.metric): e.column.info for e in entries}
    for task, name in metrics:
        floors = [f for e in entries if (e.column.task, e.column.metric) == (task, name) for f in e.floors.values()]
        notes.append(
            f"{floor_text(metrics[task, name], floors)} No difference is marked between two values that cannot be told "
            "from their floors: of each, the interval of the differences from the floor over seeds is not "
            f"{'above' if metrics[task, name].higher_is_better else 'below'} zero."
        )
    return notes


def floor_text(metric: tasks.Metric, floors: Sequence[float]) -> str:
    """The floor of a metric in words: `The floor of character accuracy is 20.0 to 21.0 %, which ...`."""
    lowest, highest = (f"{end(floors):.1f}" for end in (min, max))
    span = lowest if lowest == highest else f"{lowest} to {highest}"
    value = f"{span} {metric.unit}".rstrip()
    return f"The floor of {metric.label} is {value}, which {metric.floor_of} gets."


def cut_note(table: FilledTable) -> list[str]:
    """Which benchmarks have questions that were cut, and how many, if any."""
    counts: dict[str, set[int]] = {}
    for record in {run.key: run for row in table.entries for entry in row for run in _runs(entry)}.values():
        for name, count in measures.cut_questions(record).items():
            counts.setdefault(name, set()).add(count)
    if not counts:
        return []
    parts = [f"{' or '.join(map(str, sorted(found)))} of {name}" for name, found in counts.items()]
    return [
        "Some questions of benchmarks are longer than the model reads, so their first tokens were cut off: "
        f"{', '.join(parts)}."
    ]


def doubt_note(table: FilledTable) -> list[str]:
    """Which rows have a learning rate that may not be the best, or runs that diverged, if any."""
    doubts = dict.fromkeys(
        f"{label} on {filled.cell.task}: {filled.doubt}" for label, filled in table.details() if filled.doubt
    )
    text = "; ".join(doubts)
    note = f"No difference is marked where another learning rate may be better, or where a run diverged. {text}."
    return [note] if doubts else []


def selection_note(task: tasks.Task, named: bool, both: bool) -> str:
    """By what the learning rates of a task were selected.

    Args:
        task: The task.
        named: Whether the note names the task.
        both: Whether the table has values that are read during the training, beside those at the end.
    """
    of = f" of {task.name}" if named else ""
    when = "at the end of training" if task.selection else "as a mean over the last tenth of the steps"
    end, during = task.criterion(), task.criterion(in_training=True)
    note = (
        f"The learning rate{of} is, of the rates that were tried, the one with the {_best(end)} {end.label}, {when}, "
        "in its run with the seed that most rates have."
    )
    if not both or during == end:
        return note
    return (
        f"{note} Values that are read during the training have the rate with the {_best(during)} {during.label}, where "
        "this number is above its floor; else they have the rate of the values at the end."
    )


def _best(criterion: tasks.Criterion) -> str:
    return "highest" if criterion.higher_is_better else "lowest"


def other_rates_notes(table: FilledTable) -> list[str]:
    """For which rows another rate is best by the task's main metric, where the task selects by another number."""
    notes = []
    for j, column in enumerate(table.columns):
        task = tasks.get(column.task)
        if column.at is not None or column.metric not in task.headlines or column.metric == task.criterion().metric:
            continue
        better = [text for row in table.entries if (text := _other_rate(row[j]))]
        if better:
            notes.append(
                f"The learning rates of {task.name} are not selected by {column.info.label}. By this number, in the "
                f"runs of the search, other rates are best: {'; '.join(dict.fromkeys(better))}. A difference whose "
                "sign these rates would turn is undecided."
            )
    return notes


def _other_rate(entry: TableEntry) -> str:
    """`row: rate (its value; the selected rate: its value)`, or nothing where the selected rate is the best one."""
    selection, found = entry.filled.selection, tables.best_of_search(entry)
    if selection is None or found is None:
        return ""
    best, number = found
    selected = entry.filled.runs[selection.rate][selection.seed]
    of_selected = measures.final(selected, entry.column.metric)
    if of_selected is None or number == of_selected:
        return ""
    of_best, own = (value(n, entry.column) for n in (number, of_selected))
    if of_best == own:  # two places do not tell 0.678 and 0.681 apart
        of_best, own = _score(number), _score(of_selected)
    return f"{entry.row.label}: {best.cell['learning_rate']:g} ({of_best}; {selection.rate:g}: {own})"


def same_runs_note(table: FilledTable) -> list[str]:
    """Which rows have the same runs in all their columns: two such rows say nothing more than one of them."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for row in table.entries:
        if keys := tuple(run.key for entry in row for run in _runs(entry)):
            rows.setdefault(keys, []).append(row[0].row.label)
    return [
        f"{' and '.join(labels)} have the same settings, and so the same runs."
        for labels in rows.values()
        if labels[1:]
    ]


def processor_note(table: FilledTable) -> list[str]:
    """Which processors the runs of the table had, if they had several."""
    runs = {run.key: run for row in table.entries for entry in row for run in _runs(entry)}.values()
    processors = Counter(map(measures.processor, runs))
    if len(processors) < 2:
        return []
    names = ", ".join(f"{name}: {count}" for name, count in sorted(processors.items()))
    return [
        f"The runs had different processors ({names}). They round differently, so a small part of a difference between "
        "rows may come from them."
    ]


def left_out_note(table: FilledTable) -> list[str]:
    """Which rates are not compared because they were run with other seeds only, if any."""
    left_out = dict.fromkeys(
        f"{label} on {filled.cell.task}: {', '.join(f'{rate:g}' for rate in filled.selection.left_out)} (no run with "
        f"seed {filled.selection.seed})"
        for label, filled in table.details()
        if filled.selection and filled.selection.left_out
    )
    return [f"Learning rates that are not compared: {'; '.join(left_out)}."] if left_out else []


def unmeasured_note(table: FilledTable) -> list[str]:
    """The columns for which no run has a value although runs have finished, if any."""
    names = []
    for column, entries in zip(table.columns, zip(*table.entries, strict=True), strict=True):
        if any(e.filled.selected for e in entries) and not any(e.values for e in entries):
            names.append(column.label)
    if not names:
        return []
    return [
        f"Runs have finished and did not measure: {', '.join(names)}. The settings of the task say what a run measures."
    ]


def footnotes(table: FilledTable, escape: Callable[[str], str] = str) -> list[str]:
    """The notes below a table: how to read its values, how its curves were read and its rates selected.

    Args:
        table: The table.
        escape: As in `cells`. The notes of the study's own file stay as they are.
    """
    notes = [f"Ours: mean ± standard deviation (n) over seeds, at the {table.scale} scale. {better_rule(table.layout)}"]
    steps_read = [sorted({s for row in table.entries for s in row[j].steps}) for j in range(len(table.columns))]
    if any(steps_read):
        places = "; ".join(", ".join(map(str, steps)) for steps in steps_read if steps)
        notes.append(
            "A column of a training step shows our curve at the measured step that is nearest to the same part of our "
            f"training: steps {places}."
        )
    notes += (
        unmeasured_note(table)
        + rank_note(table)
        + misfit_notes(table)
        + same_runs_note(table)
        + base_notes(table)
        + format_note(table)
        + processor_note(table)
        + floor_notes(table)
        + sample_notes(table)
        + cut_note(table)
    )
    searched = [f.cell.task for _, f in table.details() if f.selection and f.setting and f.setting.candidates]
    for name in dict.fromkeys(searched):
        both = any(c.at is not None for c in table.columns if c.task == name)
        notes.append(selection_note(tasks.get(name), len(set(searched)) > 1, both))
    notes += other_rates_notes(table) + left_out_note(table) + doubt_note(table)
    if table.layout.is_of_paper and any(c.ours for c in table.columns):
        notes.append(
            "The paper has no value for a column marked ours: it shows what we measure at this scale in place of the "
            "paper's metrics, or in addition to them."
        )
    if table.details():
        notes.append(
            "Seconds are wall-clock seconds of each run on its own machine, which may have done other work at the "
            "same time. docs/performance.md compares the speed of the methods under equal conditions."
        )
    return [*map(escape, notes), *table.layout.notes]
