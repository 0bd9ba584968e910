"""The figures of a study: training curves, spectra, learning-rate searches, score against cost and against rank."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import tasks
from ..errors import shortened
from ..paper import published
from ..spec import shapes
from ..study import measures, statistics
from ..study.fill import FilledCell, Results
from ..study.layout import COST, CURVES, RANK, RATES, SPECTRUM, Study
from . import curves, plots, rank_question, tables, wording
from .output import Files

BOUND = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
MARKER_EVERY = 0.12  # a marker each 12 % of the axis: enough to tell lines apart, and the lines stay visible
SHORT_NOTE = 5  # the lines of a note for which a figure has room
WIDE = 4  # the ratio of the largest number to the smallest beyond which an axis is logarithmic


def training_curves(study: Study, results: Results) -> Figure | None:
    """A curve over the training for each row. None where there is neither a run nor a point of the paper.

    The paper's points have a panel of their own, because the losses of the paper's model end at another level.
    """
    drawn = curves.of_study(study, results)
    has_points = any(c.row.points for c in drawn)
    has_runs = any(c.band for c in drawn)
    if not has_points and not has_runs:
        return None
    height = max(4.0, plots.END_HEIGHT * len(drawn))
    figure, panels = plots.canvas(2 if has_points else 1, height=height, width=11.0 if has_points else 7.0)
    axes = panels[-1]
    ends: list[list[tuple[float, str, dict[str, Any]]]] = [[] for _ in panels]
    for curve, look in zip(drawn, plots.looks_of([c.filled.cell for c in drawn]), strict=True):
        if points := curve.row.points:
            values = [value for _, value in points]
            panels[0].plot([100 * step / published.STEPS for step, _ in points], values, markersize=4, **look)
            ends[0].append((values[-1], curve.row.label, look))
        if band := curve.band:
            axes.plot(band.percent, band.mean, markevery=MARKER_EVERY, markersize=4, **look)
            low, high = ([m + sign * s for m, s in zip(band.mean, band.sd, strict=True)] for sign in (-1, 1))
            axes.fill_between(band.percent, low, high, color=look["color"], alpha=0.18, linewidth=0)
            ends[-1].append((band.mean[-1], curve.label, look))
    task = tasks.get(drawn[0].filled.cell.task)
    if has_points:
        note = ", read off the plot (±0.02)" if published.read_off(study.name) else ""
        panels[0].set_title(f"paper: {task.paper_model}{note}")
    metric = {m.name: m for m in task.metrics}.get(study.curve)
    if metric:
        draw_floor(axes, metric, [curve.filled for curve in drawn])
    axes.set_title(f"{'ours, ' if study.is_of_paper else ''}scale {results.scale}: mean, band ± 1 sd")
    if not has_runs:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
    for panel in panels:
        panel.set_xlabel("% of training")
        panel.set_xlim(0, 103)
        panel.set_ylabel(_axis_label(metric) if metric else "training loss, nats per token")
    notes = {
        "not run": [curve.row.label for curve in drawn if not curve.filled.selected],
        "no curve": [curve.row.label for curve in drawn if curve.filled.selected and not curve.band],
    }
    for note, missing in notes.items() if has_runs else ():
        if missing:
            short = [shortened(label, plots.LABEL_WIDTH) for label in missing]
            whole = (label.replace(" = ", BOUND) for label in short)  # no line breaks within "r = 128"
            text = textwrap.fill(f"{note}: {'; '.join(whole)}", width=52, break_on_hyphens=False)
            axes.set_xlabel(f"{axes.get_xlabel()}\n{text}")
            height += plots.LINE_HEIGHT * max(0, text.count("\n") + 1 - SHORT_NOTE)
    for panel, labels in zip(panels, ends, strict=True):
        plots.label_ends(panel, labels)
    figure.set_figheight(height)
    plots.title(figure, study.title)
    plots.legend_below(figure, axes, 1)
    return figure


def _axis_label(metric: tasks.Metric) -> str:
    return ", ".join(filter(None, (metric.label, metric.unit)))


def _score_axis(axes: Axes, metric: tasks.Metric, means: Sequence[float]) -> None:
    """Label the vertical axis, and make it logarithmic where one score would press all others together.

    A percentage keeps its axis, because it ends at 100 and may be 0.
    """
    axes.set_ylabel(_axis_label(metric))
    if metric.unit != "%" and means and max(means) > WIDE * min(means) > 0:
        plots.log_axis(axes.yaxis, min(means), max(means))


def draw_floor(axes: Axes, metric: tasks.Metric, cells: Iterable[FilledCell]) -> None:
    """A dotted line at the mean of the floors of a metric, with its meaning in the legend; nothing without floors."""
    runs = [record for filled in cells for record in filled.selected.values()]
    floors = [floor for r in runs if (floor := measures.floor(r, metric.name)) is not None]
    if floors:
        mean = sum(floors) / len(floors)
        label = f"floor, {mean:.1f} {metric.unit}: {metric.floor_of}"
        axes.axhline(mean, label=label, color="black", linestyle=":", linewidth=1)


def singular_values(study: Study, results: Results) -> Figure | None:
    """A group of bars for each kind of layer, a bar for each row. None without runs."""
    spectra = curves.spectra(study, results)
    if not spectra:
        return None
    looks = plots.looks_of([curve.filled.cell for curve, _ in spectra])
    figure, (axes,) = plots.canvas(1, height=max(4.0, 2.6 + plots.LINE_HEIGHT * len(spectra)))
    width = 0.8 / len(spectra)
    measured = dict.fromkeys(kind for _, counts in spectra for kind in counts)
    # A LLaMA's projections have their places in every figure, so that two figures can be compared.
    kinds = list(dict.fromkeys([*(shapes.PROJECTIONS if measured.keys() & set(shapes.PROJECTIONS) else ()), *measured]))
    for i, (curve, counts) in enumerate(spectra):
        names = [kind for kind in kinds if kind in counts]
        x = [kinds.index(kind) + (i - (len(spectra) - 1) / 2) * width for kind in names]
        axes.bar(
            x,
            [counts[p].mean for p in names],
            width,
            yerr=[counts[p].sd or 0.0 for p in names],
            label=curve.label,
            color=looks[i]["color"],
            alpha=0.75,
            hatch=plots.HATCHES[i % len(plots.HATCHES)],
            edgecolor="white",
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    axes.set_xticks(range(len(kinds)), [shortened(kind.removesuffix("_proj"), plots.TICK_WIDTH) for kind in kinds])
    axes.set_ylabel("singular values above 0.1")
    axes.grid(visible=False, axis="x")
    plots.title(figure, f"{study.title}\nscale {results.scale}, error bars ± 1 sd")
    plots.legend_below(figure, axes, 2)
    return figure


LabelledCells = list[tuple[str, FilledCell]]


def groups(study: Study, results: Results) -> dict[str, tuple[str, LabelledCells]]:
    """The cells that one figure of a search, or of score against cost, shows together.

    Returns:
        Name of the group, such as "table1_math" -> its task, and its cells with finished runs.
    """
    here = study.at(results.scale)
    cells: dict[str, tuple[str, LabelledCells]] = {}
    for task in here.tasks:
        columns = [c for c in here.columns if c.task == task]
        labels = {
            here.cell(row, c): row.label + (f", r = {c.rank}" if c.rank else "") for row in here.rows for c in columns
        }
        name = study.name + (f"_{task}" if len(here.tasks) > 1 else "")
        filled = [(label, results.cell(cell)) for cell, label in labels.items()]
        cells[name] = (task, [(label, f) for label, f in filled if f.selection])
    return cells


def rate_search(task: str, cells: LabelledCells, scale: str) -> Figure | None:
    """The number by which the search judges, over the learning rate. A ring marks the selected rate.

    None where no cell has tried two rates.
    """
    searches = [(label, f.cell, s) for label, f in cells if (s := f.selection) and len(s.scores) > 1]
    if not searches:
        return None
    looks = plots.looks_of([cell for _, cell, _ in searches])
    figure, (axes,) = plots.canvas(1, height=3.6 + plots.LINE_HEIGHT * len(searches))
    for i, (label, _, selection) in enumerate(searches):
        points = [(rate, score) for rate, score in selection.scores.items() if score is not None]
        axes.plot([r for r, _ in points], [s for _, s in points], label=label, markersize=5, **looks[i])
        if (best := selection.scores[selection.rate]) is not None:
            axes.plot([selection.rate], [best], "o", markersize=11, markerfacecolor="none", color=looks[i]["color"])
    rates = sorted({rate for *_, selection in searches for rate in selection.scores})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel("learning rate")
    axes.set_ylabel(tasks.get(task).criterion().label)
    plots.title(figure, f"Learning-rate search on {task}, scale {scale} (ringed: selected)")
    plots.legend_below(figure, axes, 2)
    return figure


def shown_metric(task: str, cells: Sequence[FilledCell]) -> tasks.Metric | None:
    """The first of a task's headline and its stand-ins that a cell has a value of; None without any.

    Where most cells have one such value, such as 100 %, the metric that selects the learning rates tells more.
    """
    selection = tasks.get(task).selection
    names = [*tasks.get(task).headlines, *([selection] if selection else [])]
    held = {name: means for name in names if (means := _means(name, cells))}
    apart = (
        n
        for n, means in held.items()
        if not rank_question.is_at_one_score(rank_question.largest_tie(means), len(means))
    )
    chosen = next(apart, next(iter(held), None))
    return tasks.metric(task, chosen) if chosen else None


def _means(name: str, cells: Sequence[FilledCell]) -> list[float]:
    """The mean of a final metric over the runs of each cell that has a value of the metric."""
    values = ([v for r in filled.selected.values() if (v := measures.final(r, name)) is not None] for filled in cells)
    return [summary.mean for of_cell in values if (summary := statistics.summary(of_cell))]


COST_AXES = {
    "trainable_parameters": "trainable parameters",
    "seconds": "wall-clock seconds, on machines that differ in speed and load",
}


def score_against_cost(task: str, cells: LabelledCells, scale: str) -> Figure | None:
    """The task's main metric over the trainable parameters, and over the seconds of training.

    Error bars are ± 1 standard deviation over seeds. None where no cell has a value.
    """
    metric = shown_metric(task, [filled for _, filled in cells])
    if metric is None:
        return None
    figure, panels = plots.canvas(2, height=3.8 + plots.LINE_HEIGHT * len(cells))
    looks = plots.looks_of([filled.cell for _, filled in cells])
    means = []
    for axes, (cost, axis_label) in zip(panels, COST_AXES.items(), strict=True):
        for i, (label, filled) in enumerate(cells):
            runs = filled.selected.values()
            score = statistics.summary([v for r in runs if (v := measures.final(r, metric.name)) is not None])
            mean_cost = tables.mean_cost(runs, cost)
            if score and mean_cost:
                look = looks[i] | {"linestyle": "none"}
                axes.errorbar(mean_cost, score.mean, score.sd or 0.0, label=label, capsize=2, markersize=6, **look)
                means.append(score.mean)
        draw_floor(axes, metric, [filled for _, filled in cells])
        axes.set_xlabel(axis_label)
        _score_axis(axes, metric, means)
    counts = [n for _, f in cells if (n := tables.mean_cost(f.selected.values(), "trainable_parameters"))]
    if counts:
        plots.log_axis(panels[0].xaxis, min(counts), max(counts))
    plots.title(figure, f"Score against cost on {task}, scale {scale} (± 1 sd)")
    plots.legend_below(figure, panels[0], 3)
    return figure


def score_against_rank(study: Study, question: rank_question.RankQuestion, scale: str) -> Figure:
    """The score of each row over the measured rank of its update, and whether the rank predicts the score."""
    figure, (axes,) = plots.canvas(1, height=max(4.0, 1.0 + plots.END_HEIGHT * len(question.points)), width=7.0)
    looks = [own | {"linestyle": "none"} for own in plots.looks_of([point.cell for point in question.points])]
    for point, look in zip(question.points, looks, strict=True):
        errors = {"yerr": point.score.sd or 0.0, "xerr": point.rank.sd or 0.0}
        axes.errorbar(point.rank.mean, point.score.mean, **errors, capsize=2, markersize=6, **look)
    axes.set_xlabel(wording.RANK_LABEL)
    ranks = [point.rank.mean for point in question.points]
    if max(ranks) > WIDE * min(ranks) > 0:
        plots.log_axis(axes.xaxis, min(ranks), max(ranks))
    means = [point.score.mean for point in question.points]
    _score_axis(axes, question.column.info, means)
    plots.title(
        figure,
        f"{study.title}, {question.column.label}, scale {scale} (± 1 sd)\n"
        f"Does a higher rank score better? {question.text}"
        + (f"\nleft out: {len(question.left_out)} rows in doubt" if question.left_out else ""),
    )
    labels = [point.label + " (left out)" * bool(point.doubt) for point in question.points]
    plots.label_ends(axes, list(zip(means, labels, looks, strict=True)))
    return figure


def figures_of(study: Study, results: Results) -> Iterator[tuple[str, Figure | None]]:
    """(file name, figure), with None for a figure without runs. Draw inside `plots.style()`."""
    if CURVES in study.figures:
        yield (f"curves_{study.name}" if study.has_table else study.name), training_curves(study, results)
    if SPECTRUM in study.figures:
        yield (f"spectrum_{study.name}" if study.has_table else study.name), singular_values(study, results)
    if RANK in study.figures:
        asked = rank_question.questions(tables.fill(study, results))
        for question in (q for q in asked if not q.tells_nothing):
            at = f"_r{question.rank}" if question.rank else ""
            yield f"rank_{study.name}_{question.column.name}{at}", score_against_rank(study, question, results.scale)
    for name, (task, cells) in groups(study, results).items():
        if RATES in study.figures:
            yield f"rates_{name}", rate_search(task, cells, results.scale)
        if COST in study.figures:
            yield f"cost_{name}", score_against_cost(task, cells, results.scale)


def figure_files(results: Results, studies: Iterable[Study], folder: Path) -> tuple[Files, list[str]]:
    """`folder`/<scale>/<name>.svg and .png, and the names of the figures without runs."""
    files: Files = {}
    without_runs: list[str] = []
    here = [study for study in studies if study.has_scale(results.scale)]
    with plots.style():
        for name, figure in (drawn for study in here for drawn in figures_of(study, results)):
            if figure is None:
                without_runs.append(name)
                continue
            path = folder / results.scale / name
            files |= {path.with_suffix(".svg"): plots.svg(figure), path.with_suffix(".png"): plots.png(figure)}
    return files, without_runs
