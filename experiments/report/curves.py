"""Curves over training: the runs of a cell, averaged over seeds."""

from __future__ import annotations

from dataclasses import dataclass

from .. import paper
from ..paper import Cell, Series
from ..spec import shapes
from ..study import measures, statistics
from ..study.fill import FilledCell, Results


@dataclass(frozen=True)
class Band:
    """The curve of a cell: mean and standard deviation over seeds, at each step.

    Attributes:
        steps: The steps at which every seed has a value; `mean` and `sd` have the same length.
        total: The steps of the whole training.
    """

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    total: int

    @property
    def percent(self) -> list[float]:
        """Each step as percent of the training."""
        return [100 * step / self.total for step in self.steps]


@dataclass(frozen=True)
class LabelledCurve:
    """A series of one of the paper's figures, with its label and our curve; `band` is None where nothing was run."""

    series: Series
    label: str
    band: Band | None


def band(filled: FilledCell, metric: str) -> Band | None:
    """The curve of a cell. None where no finished run at the selected rate has this curve."""
    runs = list(filled.selected.values())
    curves = [points for r in runs if (points := dict(measures.curve(r, metric)))]
    total = measures.steps(runs[0]) if runs else None
    if not curves or not total:
        return None
    steps = sorted(set.intersection(*(set(points) for points in curves)))
    at_step = [statistics.summary([points[step] for points in curves]) for step in steps]
    return Band(tuple(steps), tuple(s.mean for s in at_step if s), tuple(s.sd or 0.0 for s in at_step if s), total)


def label_of(series: Series, filled: FilledCell) -> str:
    """The paper's label, the rank at this scale where the rank differs from the paper's, and the number of seeds."""
    setting, n = filled.setting, len(filled.selected)
    if setting is None or not n:
        return f"{series.label} (not run)"
    rank = f"here r = {setting.rank}, " if setting.rank not in (None, series.cell.rank) else ""
    return f"{series.label} ({rank}n = {n})"


METRIC = {1: "char_accuracy", 2: "loss", 3: "loss", 4: "loss"}
TITLES = {
    1: "UUID memorisation: character accuracy (Table 2 as curves)",
    2: "UUID memorisation: training loss, FFT and LoRA by rank (Figure 2)",
    3: "UUID memorisation: training loss, LoRA and MoRA (Figure 3)",
    4: "Pretraining: training loss (Figure 4)",
    5: "Singular values of the update above 0.1, mean over layers (Figure 5)",
}


def of_figure(number: int, results: Results) -> list[LabelledCurve]:
    """Every series of Figure 1, 2, 3 or 4 of the paper."""
    cells = [(series, results.cell(series.cell)) for series in paper.figure(number)]
    return [LabelledCurve(series, label_of(series, f), band(f, METRIC[number])) for series, f in cells]


def spectra(results: Results) -> list[tuple[Cell, str, dict[str, statistics.Summary]]]:
    """Figure 5: cell, label, and for each projection the singular values above 0.1. Only cells with runs."""
    bars = []
    for series in paper.figure(5):
        filled = results.cell(series.cell)
        spectra = [s for r in filled.selected.values() if (s := measures.spectrum(r))]
        counts = {p: statistics.summary([s[p] for s in spectra if p in s]) for p in shapes.PROJECTIONS}
        if spectra:
            bars.append((series.cell, label_of(series, filled), {p: c for p, c in counts.items() if c}))
    return bars
