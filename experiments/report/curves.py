"""Curves over training: the runs of a cell, averaged over seeds."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import shapes
from ..study import measures, statistics
from ..study.fill import FilledCell, Results
from ..study.layout import Row, Study


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
    """A row of a study, with its label and our curve; `band` is None where nothing was run."""

    row: Row
    filled: FilledCell
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


def label_of(row: Row, filled: FilledCell) -> str:
    """The row's label, the rank at this scale where the rank differs from the paper's, and the number of seeds."""
    setting, n = filled.setting, len(filled.selected)
    if setting is None or not n:
        return f"{row.label} (not run)"
    rank = f"here r = {setting.rank}, " if row.rank and setting.rank not in (None, row.rank) else ""
    return f"{row.label} ({rank}n = {n})"


def of_study(study: Study, results: Results, *, in_training: bool = True) -> list[LabelledCurve]:
    """The curve of every row of a study, in the cells of its first column.

    Args:
        study: The study.
        results: The records of a scale.
        in_training: Whether the runs have the learning rate for values during the training, or that for values at its
            end.
    """
    here = study.at(results.scale)
    cells = [(row, here.cell(row, here.columns[0])) for row in here.rows]
    filled = [(row, results.cell(cell, in_training=in_training)) for row, cell in cells]
    return [LabelledCurve(row, f, label_of(row, f), band(f, study.curve)) for row, f in filled]


def spectra(study: Study, results: Results) -> list[tuple[LabelledCurve, dict[str, statistics.Summary]]]:
    """For each row with runs, and for each kind of layer, the singular values of the update above 0.1."""
    bars = []
    for curve in of_study(study, results, in_training=False):
        measured = [s for r in curve.filled.selected.values() if (s := measures.spectrum(r))]
        kinds = dict.fromkeys([*shapes.PROJECTIONS, *(kind for spectrum in measured for kind in spectrum)])
        counts = {p: statistics.summary([s[p] for s in measured if p in s]) for p in kinds}
        # Full training has no adapter whose spectrum could be compared.
        if measured and curve.filled.setting and curve.filled.setting.rank:
            bars.append((curve, {p: c for p, c in counts.items() if c}))
    return bars
