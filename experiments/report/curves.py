"""Curves over training: the runs of a cell, averaged over seeds."""

from __future__ import annotations

from dataclasses import dataclass

from .. import paper
from ..paper import Cell, Series
from ..study import measures, statistics
from ..study.fill import Filled, Results


@dataclass(frozen=True)
class Band:
    """A curve of a cell: mean and standard deviation over `n` seeds at each step.

    Attributes:
        steps: The steps that every seed measured.
        total: The steps of the whole training.
    """

    label: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    n: int
    total: int

    @property
    def percent(self) -> list[float]:
        """How far each step is into the training."""
        return [100 * step / self.total for step in self.steps]


def band(label: str, filled: Filled, metric: str) -> Band | None:
    """None where no finished run at the selected rate has this curve."""
    runs = list(filled.selected.values())
    curves = [c for r in runs if (c := dict(measures.curve(r, metric)))]
    total = measures.steps(runs[0]) if runs else None
    if not curves or not total:
        return None
    steps = sorted(set.intersection(*(set(c) for c in curves)))
    at_step = [statistics.summary([c[step] for c in curves]) for step in steps]
    mean = tuple(s.mean for s in at_step if s)
    sd = tuple(s.sd or 0.0 for s in at_step if s)
    return Band(label, tuple(steps), mean, sd, len(curves), total)


def label_of(series: Series, filled: Filled) -> str:
    """The paper's label, with what its rank is here and how many seeds there are."""
    setting, n = filled.setting, len(filled.selected)
    if setting is None or not n:
        return f"{series.label} (not run)"
    here = f"here r = {setting.rank}, " if setting.rank not in (None, series.cell.rank) else ""
    return f"{series.label} ({here}n = {n})"


METRIC = {1: "char_accuracy", 2: "loss", 3: "loss", 4: "loss"}
TITLES = {
    1: "UUID memorisation: character accuracy (Table 2 as curves)",
    2: "UUID memorisation: training loss, FFT and LoRA by rank (Figure 2)",
    3: "UUID memorisation: training loss, LoRA and MoRA (Figure 3)",
    4: "Pretraining: training loss (Figure 4)",
    5: "Singular values of the update above 0.1, mean over layers (Figure 5)",
}


def of_figure(number: int, results: Results) -> list[tuple[Series, str, Band | None]]:
    """Every series of a figure with its label and, where it was run, its curve."""
    made = []
    for series in paper.figure(number):
        filled = results.cell(series.cell)
        label = label_of(series, filled)
        made.append((series, label, band(label, filled, METRIC[number])))
    return made


def spectra(results: Results) -> list[tuple[Cell, str, dict[str, statistics.Summary]]]:
    """Figure 5: cell, label and, for each projection, the count over seeds. Only what was run."""
    made = []
    for series in paper.figure(5):
        filled = results.cell(series.cell)
        stored = [s for r in filled.selected.values() if (s := measures.spectrum(r))]
        if stored:
            counts = {p: statistics.summary([s[p] for s in stored if p in s]) for p in paper.PROJECTIONS}
            made.append((series.cell, label_of(series, filled), {p: c for p, c in counts.items() if c}))
    return made
