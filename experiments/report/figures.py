"""The figures: training curves and spectra of the paper; learning-rate searches and score against cost of our own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import paper, tasks
from ..paper import Cell
from ..spec import shapes
from ..study import measures, statistics
from ..study.fill import FilledCell, Results
from . import curves, plots, tables
from .output import Files

MARKER_EVERY = 0.12  # a marker each 12 % of the axis: enough to tell lines apart, and the lines stay visible


def training_curves(number: int, results: Results) -> Figure | None:
    """Figures 1 to 4. None where there is neither a run nor a point of the paper.

    The paper's points have a panel of their own, because the losses of the paper's model end at another level.
    """
    labelled_curves = curves.of_figure(number, results)
    has_points = any(c.series.points for c in labelled_curves)
    has_runs = any(c.band for c in labelled_curves)
    if not has_points and not has_runs:
        return None
    figure, panels = plots.canvas(2 if has_points else 1, height=4.4)
    axes = panels[-1]
    for i, curve in enumerate(labelled_curves):
        look = plots.look(i) if number == 2 else plots.look_of(curve.series.cell)
        if has_points:
            x = [100 * step / paper.PAPER_STEPS for step, _ in curve.series.points]
            panels[0].plot(x, [v for _, v in curve.series.points], markersize=4, **look)
        if band := curve.band:
            axes.plot(band.percent, band.mean, label=curve.label, markevery=MARKER_EVERY, markersize=4, **look)
            low, high = ([m + sign * s for m, s in zip(band.mean, band.sd, strict=True)] for sign in (-1, 1))
            axes.fill_between(band.percent, low, high, color=look["color"], alpha=0.18, linewidth=0)
        else:
            axes.plot([], [], label=curve.label, **look)
    if has_points:
        model = tasks.get(labelled_curves[0].series.cell.task).paper_model
        panels[0].set_title(f"paper: {model}" + ("" if number == 1 else ", read off the plot (±0.02)"))
    if number == 1:
        cells = [results.cell(curve.series.cell) for curve in labelled_curves]
        draw_floor(axes, tasks.metric("uuid", curves.METRIC[number]), cells)
    axes.set_title(f"ours, scale {results.scale}: mean, band ± 1 sd")
    if not has_runs:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
    for panel in panels:
        panel.set_xlabel("% of training")
        panel.set_xlim(0, 103)
        panel.set_ylabel("character accuracy, %" if number == 1 else "training loss, nats per token")
    figure.suptitle(curves.TITLES[number])
    plots.legend_below(figure, axes, 2)
    return figure


def draw_floor(axes: Axes, metric: tasks.Metric, cells: Iterable[FilledCell]) -> None:
    """A dotted line at the mean of the floors of a metric, with its meaning in the legend; nothing without floors."""
    runs = [record for filled in cells for record in filled.selected.values()]
    floors = [floor for r in runs if (floor := measures.floor(r, metric.name)) is not None]
    if floors:
        mean = sum(floors) / len(floors)
        label = f"floor, {mean:.1f} {metric.unit}: {metric.floor_of}"
        axes.axhline(mean, label=label, color="black", linestyle=":", linewidth=1)


def singular_values(results: Results) -> Figure | None:
    """Figure 5: a group of bars for each projection, a bar for each method. None without runs."""
    spectra = curves.spectra(results)
    if not spectra:
        return None
    figure, (axes,) = plots.canvas(1, height=4.0)
    width = 0.8 / len(spectra)
    for i, (cell, label, counts) in enumerate(spectra):
        names = [p for p in shapes.PROJECTIONS if p in counts]
        x = [shapes.PROJECTIONS.index(p) + (i - (len(spectra) - 1) / 2) * width for p in names]
        axes.bar(
            x,
            [counts[p].mean for p in names],
            width,
            yerr=[counts[p].sd or 0.0 for p in names],
            label=label,
            color=plots.look_of(cell)["color"],
            alpha=0.75,
            hatch=plots.HATCHES[i],
            edgecolor="white",
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    axes.set_xticks(range(len(shapes.PROJECTIONS)), [p.removesuffix("_proj") for p in shapes.PROJECTIONS])
    axes.set_ylabel("singular values above 0.1")
    axes.grid(visible=False, axis="x")
    axes.set_title(f"{curves.TITLES[5]}\nscale {results.scale}, error bars ± 1 sd")
    plots.legend_below(figure, axes, 2)
    return figure


LabelledCells = list[tuple[str, FilledCell]]


def groups(results: Results) -> dict[str, tuple[str, LabelledCells]]:
    """The cells that one figure of a search, or of score against cost, shows together.

    Returns:
        Name of the group, such as "table1_math" -> its task, and its cells with finished runs.
    """
    cells: dict[str, tuple[str, LabelledCells]] = {}
    for number in (1, 2, 3, 4):
        table = paper.table(number).at(results.scale)
        tasks = list(dict.fromkeys(c.task for c in table.columns))
        for task in tasks:
            columns = [c for c in table.columns if c.task == task]
            labels = {
                table.cell(row, c): row.label + (f", r = {c.rank}" if c.rank else "")
                for row in table.rows
                for c in columns
            }
            name = f"table{number}" + (f"_{task}" if len(tasks) > 1 else "")
            cells[name] = (task, _with_runs(labels, results))
    cells["figure2"] = ("uuid", _with_runs({s.cell: s.label for s in paper.figure(2)}, results))
    return cells


def _with_runs(labels: dict[Cell, str], results: Results) -> LabelledCells:
    return [(label, filled) for cell, label in labels.items() if (filled := results.cell(cell)).selection]


def rate_search(task: str, cells: LabelledCells, scale: str) -> Figure | None:
    """The loss by which the search judges, over the learning rate. A ring marks the selected rate.

    None where no cell has tried two rates.
    """
    searches = [(label, f.selection) for label, f in cells if f.selection and len(f.selection.scores) > 1]
    if not searches:
        return None
    figure, (axes,) = plots.canvas(1, height=3.6 + 0.16 * len(searches))
    for i, (label, selection) in enumerate(searches):
        points = [(rate, score) for rate, score in selection.scores.items() if score is not None]
        axes.plot([r for r, _ in points], [s for _, s in points], label=label, markersize=5, **plots.look(i))
        if (best := selection.scores[selection.rate]) is not None:
            axes.plot(
                [selection.rate], [best], "o", markersize=11, markerfacecolor="none", color=plots.look(i)["color"]
            )
    rates = sorted({rate for _, selection in searches for rate in selection.scores})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel("learning rate")
    axes.set_ylabel(tasks.get(task).selection_label)
    axes.set_title(f"Learning-rate search on {task}, scale {scale} (ringed: selected)")
    plots.legend_below(figure, axes, 2)
    return figure


def headline(task: str, cells: Iterable[FilledCell]) -> tasks.Metric | None:
    """The headline of a task if a cell has a value for it, else the first of its stand-ins that has; None without."""
    runs = [record for filled in cells for record in filled.selected.values()]
    names = tasks.get(task).headlines
    held = [name for name in names if any(measures.final(r, name) is not None for r in runs)]
    return tasks.metric(task, held[0]) if held else None


COST_AXES = {"trainable_parameters": "trainable parameters", "seconds": "seconds of training"}


def score_against_cost(task: str, cells: LabelledCells, scale: str) -> Figure | None:
    """The task's headline metric over the trainable parameters, and over the seconds of training.

    Error bars are ± 1 standard deviation over seeds. None where no cell has a value.
    """
    metric = headline(task, [filled for _, filled in cells])
    if metric is None:
        return None
    figure, panels = plots.canvas(2, height=3.8 + 0.16 * len(cells))
    for axes, (cost, axis_label) in zip(panels, COST_AXES.items(), strict=True):
        for i, (label, filled) in enumerate(cells):
            runs = filled.selected.values()
            score = statistics.summary([v for r in runs if (v := measures.final(r, metric.name)) is not None])
            mean_cost = tables.mean_cost(runs, cost)
            if score and mean_cost:
                look = plots.look(i) | {"linestyle": "none"}
                axes.errorbar(mean_cost, score.mean, score.sd or 0.0, label=label, capsize=2, markersize=6, **look)
        draw_floor(axes, metric, [filled for _, filled in cells])
        axes.set_xlabel(axis_label)
        axes.set_ylabel(", ".join(filter(None, (metric.label, metric.unit))))
    counts = [n for _, f in cells if (n := tables.mean_cost(f.selected.values(), "trainable_parameters"))]
    if counts:
        plots.log_axis(panels[0].xaxis, min(counts), max(counts))
    figure.suptitle(f"Score against cost on {task}, scale {scale} (± 1 sd)")
    plots.legend_below(figure, panels[0], 3)
    return figure


def figures_of(results: Results, numbers: Iterable[int] | None) -> Iterator[tuple[str, Figure | None]]:
    """(file name, figure), with None for a figure without runs. Draw inside `plots.style()`.

    Args:
        results: The cells of one scale.
        numbers: Figures of the paper; None for every figure of the paper and of our own.
    """
    for number in numbers or paper.FIGURES:
        yield f"figure{number}", singular_values(results) if number == 5 else training_curves(number, results)
    if numbers is None:
        for name, (task, cells) in groups(results).items():
            yield f"rates_{name}", rate_search(task, cells, results.scale)
            yield f"cost_{name}", score_against_cost(task, cells, results.scale)


def figure_files(results: Results, numbers: Iterable[int] | None, folder: Path) -> tuple[Files, list[str]]:
    """`folder`/<scale>/<name>.svg and .png, and the names of the figures without runs."""
    files: Files = {}
    without_runs: list[str] = []
    with plots.style():
        for name, figure in figures_of(results, numbers):
            if figure is None:
                without_runs.append(name)
                continue
            path = folder / results.scale / name
            files |= {path.with_suffix(".svg"): plots.svg(figure), path.with_suffix(".png"): plots.png(figure)}
    return files, without_runs
