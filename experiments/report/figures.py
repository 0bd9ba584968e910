"""The paper's figures and ours: curves, spectra, learning rates, score against cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from .. import paper, tasks
from ..paper import Cell
from ..study import measures, statistics
from ..study.fill import Filled, Results
from . import curves, plots, tables
from .output import Files

MARKER_EVERY = 0.12  # of the axis: markers tell lines apart without hiding them


def training_curves(number: int, results: Results) -> Figure | None:
    """Figures 1 to 4. Theirs, where there are points, in a panel of their own: their losses have another floor."""
    series = curves.of_figure(number, results)
    theirs = any(s.points for s, _, _ in series)
    if not theirs and not any(found for _, _, found in series):
        return None
    figure, panels = plots.canvas(2 if theirs else 1, height=4.4)
    ours = panels[-1]
    for i, (one, label, found) in enumerate(series):
        look = plots.look(i) if number == 2 else plots.look_of(one.cell)
        if theirs:
            x = [100 * step / paper.PAPER_STEPS for step, _ in one.points]
            panels[0].plot(x, [v for _, v in one.points], markersize=4, **look)
        if found:
            ours.plot(found.percent, found.mean, label=label, markevery=MARKER_EVERY, markersize=4, **look)
            low, high = ([m + sign * s for m, s in zip(found.mean, found.sd, strict=True)] for sign in (-1, 1))
            ours.fill_between(found.percent, low, high, color=look["color"], alpha=0.18, linewidth=0)
        else:
            ours.plot([], [], label=label, **look)
    if theirs:
        panels[0].set_title(
            f"paper: {tasks.get(series[0][0].cell.task).paper_model}"
            + ("" if number == 1 else ", read off the plot (±0.02)")
        )
    ours.set_title(f"ours, scale {results.scale}: mean, band ± 1 sd")
    if not any(found for _, _, found in series):
        ours.text(0.5, 0.5, "not run", ha="center", va="center", transform=ours.transAxes)
    for panel in panels:
        panel.set_xlabel("% of training")
        panel.set_xlim(0, 103)
        panel.set_ylabel("character accuracy, %" if number == 1 else "training loss, nats a token")
    figure.suptitle(curves.TITLES[number])
    plots.legend_below(figure, ours, 2)
    return figure


def singular_values(results: Results) -> Figure | None:
    """Figure 5: one group of bars a projection."""
    found = curves.spectra(results)
    if not found:
        return None
    figure, (axes,) = plots.canvas(1, height=4.0)
    width = 0.8 / len(found)
    for i, (cell, label, counts) in enumerate(found):
        names = [p for p in paper.PROJECTIONS if p in counts]
        x = [paper.PROJECTIONS.index(p) + (i - (len(found) - 1) / 2) * width for p in names]
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
    axes.set_xticks(range(len(paper.PROJECTIONS)), [p.removesuffix("_proj") for p in paper.PROJECTIONS])
    axes.set_ylabel("singular values above 0.1")
    axes.grid(visible=False, axis="x")
    axes.set_title(f"{curves.TITLES[5]}\nscale {results.scale}, error bars ± 1 sd")
    plots.legend_below(figure, axes, 2)
    return figure


Labelled = list[tuple[str, Filled]]


def groups(results: Results) -> dict[str, tuple[str, Labelled]]:
    """Name of an artefact -> its task, and its cells that have finished runs; what the figures of the search show."""
    made: dict[str, tuple[str, Labelled]] = {}
    for number in (1, 2, 3, 4):
        table = paper.table(number)
        tasks = list(dict.fromkeys(c.task for c in table.columns))
        for task in tasks:
            columns = [c for c in table.columns if c.task == task and c.only_scale in (None, results.scale)]
            named = {
                table.cell(row, c): row.label + (f", r = {c.rank}" if c.rank else "")
                for row in table.rows
                for c in columns
            }
            made[f"table{number}" + (f"_{task}" if len(tasks) > 1 else "")] = (task, _with_runs(named, results))
    made["figure2"] = ("uuid", _with_runs({s.cell: s.label for s in paper.figure(2)}, results))
    return made


def _with_runs(named: dict[Cell, str], results: Results) -> Labelled:
    return [(label, f) for cell, label in named.items() if (f := results.cell(cell)).selection]


def rate_search(task: str, cells: Labelled, scale: str) -> Figure | None:
    """The loss that the search saw, over the learning rate; the selected rate is ringed."""
    found = [(label, f) for label, f in cells if f.selection and len(f.selection.scores) > 1]
    if not found:
        return None
    figure, (axes,) = plots.canvas(1, height=3.6 + 0.16 * len(found))
    for i, (label, filled) in enumerate(found):
        selection = filled.selection
        assert selection is not None
        points = [(rate, score) for rate, score in selection.scores.items() if score is not None]
        axes.plot([r for r, _ in points], [s for _, s in points], label=label, markersize=5, **plots.look(i))
        if (best := selection.scores[selection.rate]) is not None:
            axes.plot(
                [selection.rate], [best], "o", markersize=11, markerfacecolor="none", color=plots.look(i)["color"]
            )
    tried = sorted({rate for _, f in found if f.selection for rate in f.selection.scores})
    axes.set_xscale("log")
    axes.set_xticks(tried, [f"{rate:g}" for rate in tried], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss of the search, nats a token")
    axes.set_title(f"Learning-rate search on {task}, scale {scale} (ringed: selected)")
    plots.legend_below(figure, axes, 2)
    return figure


def headline(task: str, found: Iterable[Filled]) -> tasks.Metric | None:
    """The headline of a task if any cell holds it, else the first of its stand-ins that any cell holds."""
    names = tasks.get(task).headlines
    held = {name for f in found for r in f.selected.values() for name in names if measures.final(r, name) is not None}
    return next((tasks.metric(task, name) for name in names if name in held), None)


COST_AXES = {"trainable_parameters": "trainable parameters", "seconds": "seconds of training"}


def score_against_cost(task: str, found: Labelled, scale: str) -> Figure | None:
    """The task's first metric against what trains and against how long it takes; error bars are ± 1 sd over seeds."""
    metric = headline(task, [f for _, f in found])
    if metric is None:
        return None
    figure, panels = plots.canvas(2, height=3.8 + 0.16 * len(found))
    for axes, (cost, said) in zip(panels, COST_AXES.items(), strict=True):
        for i, (label, filled) in enumerate(found):
            runs = filled.selected.values()
            values = statistics.summary([v for r in runs if (v := measures.final(r, metric.name)) is not None])
            spent = tables.mean_cost(runs, cost)
            if values and spent:
                look = plots.look(i) | {"linestyle": "none"}
                axes.errorbar(spent, values.mean, values.sd or 0.0, label=label, capsize=2, markersize=6, **look)
        axes.set_xlabel(said)
        axes.set_ylabel(", ".join(filter(None, (metric.label, metric.unit))))
    trained = [c for _, f in found if (c := tables.mean_cost(f.selected.values(), "trainable_parameters"))]
    if trained:
        plots.log_axis(panels[0].xaxis, min(trained), max(trained))
    figure.suptitle(f"Score against cost on {task}, scale {scale} (± 1 sd)")
    plots.legend_below(figure, panels[0], 3)
    return figure


def figures_of(results: Results, numbers: Iterable[int] | None) -> Iterator[tuple[str, Figure | None]]:
    """Each figure by file name, None where there are no runs for it; all of them, or the paper's of these numbers."""
    for number in numbers or paper.FIGURES:
        yield f"figure{number}", singular_values(results) if number == 5 else training_curves(number, results)
    if numbers is None:
        for name, (task, cells) in groups(results).items():
            yield f"rates_{name}", rate_search(task, cells, results.scale)
            yield f"cost_{name}", score_against_cost(task, cells, results.scale)


def figure_files(results: Results, numbers: Iterable[int] | None, folder: Path) -> tuple[Files, list[str]]:
    """`folder`/<scale>/<name>.svg and .png, and the names of those for which there are no runs."""
    files: Files = {}
    without: list[str] = []
    with plots.styled():
        for name, figure in figures_of(results, numbers):
            if figure is None:
                without.append(name)
                continue
            for suffix, content in plots.saved(figure).items():
                files[folder / results.scale / f"{name}{suffix}"] = content
    return files, without
