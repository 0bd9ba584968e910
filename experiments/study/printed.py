"""What the paper prints for a cell, a quantity or a run, and in which tables a run stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .. import tasks
from ..identity import cell_key_of, fingerprint
from ..paper import Cell, Quantity, Side, published, quantities
from ..spec.run_config import Paths
from . import study_file
from .cells import UnavailableError, protocols
from .layout import Column, Row, Study


@dataclass(frozen=True)
class PaperValue:
    """A number of the paper, where it stands, and the model that the paper measured."""

    where: str
    value: float
    model: str


@cache
def _final_values() -> dict[tuple[Cell, str], float | None]:
    """(Cell, final metric) -> the value that the paper prints."""
    values: dict[tuple[Cell, str], float | None] = {}
    for study in study_file.of_project():
        for row in study.rows:
            for column in study.columns:
                if column.at is None and column.name in row.paper_values:
                    values.setdefault((study.cell(row, column), column.metric), row.paper_values[column.name])
    return values


@cache
def _points(study: str) -> dict[Cell, dict[int, float]]:
    """Cell -> the points of its curve in a figure of the paper."""
    figure = study_file.get(study)
    return {figure.cell(row, figure.columns[0]): dict(row.points) for row in figure.rows if row.points}


def printed(cell: Cell, metric: str) -> float | None:
    """The final metric that the paper prints for a cell; None where the paper prints none."""
    return _final_values().get((cell, metric))


def quantity_of(cell: Cell, quantity: Quantity) -> float | None:
    """The paper's number for a cell; None where the paper has none."""
    match quantity:
        case quantities.FinalMetric(metric=metric):
            return printed(cell, metric)
        case quantities.CurveMean(figure=figure, fractions=fractions):
            points = _points(figure).get(cell, {})
            values = [points.get(round(fraction * published.STEPS)) for fraction in fractions]
            numbers = [value for value in values if value is not None]
            return sum(numbers) / len(values) if len(numbers) == len(values) else None
        case quantities.StepsTo(threshold=threshold):
            return quantities.crossing(sorted(_points("figure1").get(cell, {}).items()), threshold)
    return None


def side_value(side: Side, quantity: Quantity) -> float | None:
    """The paper's number for a side of a comparison; None where the paper has none."""
    cells = (side.printed or side.cell, *side.cells[1:])
    values = [quantity_of(cell, quantity) for cell in cells]
    if side.over is None or None in values:
        return values[0] if side.over is None else None
    value, over = (v for v in values if v is not None)
    return value - over if quantity.higher_is_better else over - value


def places(identity: dict[str, Any], among: Sequence[Study]) -> Iterator[tuple[Study, Row, Column]]:
    """Where a run stands in studies: (study, row, column) of each cell that the run fills.

    Args:
        identity: That of the run. All of it counts but the learning rate, the seed and the number format.
        among: The studies.
    """
    key, scale = cell_key_of(identity), identity["scale"]
    for study in among:
        here = study.at(scale)
        fills = {cell: _fills(identity, key, cell) for cell in here.cells(scale)}
        for row in here.rows if any(fills.values()) else ():
            for column in here.columns:
                if fills[here.cell(row, column)]:
                    yield here, row, column


def tables_of(identity: dict[str, Any]) -> list[str]:
    """The names of the studies in whose tables a run fills a cell: `table2`."""
    tables = [study for study in study_file.of_project() if study.has_table]
    return list(dict.fromkeys(study.name for study, *_ in places(identity, tables)))


def paper_values_of(identity: dict[str, Any]) -> list[PaperValue]:
    """What the paper prints for the cell that a run fills, or, where no table has the cell, draws for it."""
    every = study_file.of_project()
    values = []
    for study, row, column in places(identity, [s for s in every if s.has_table]):
        value = row.paper_values.get(column.name)
        if value is not None:
            model = column.paper_model or tasks.get(column.task).paper_model
            values.append(PaperValue(f"Table {study.name[5:]}, {column.label}", value, model))
    if values:
        return values
    for study, row, column in places(identity, [s for s in every if not s.has_table]):
        if row.points:
            step, value = row.points[-1]
            where = f"Figure {study.name[6:]}, training loss at step {step}"
            values.append(PaperValue(where, value, tasks.get(column.task).paper_model))
    return values


def _fills(identity: dict[str, Any], key: str, cell: Cell) -> bool:
    """Whether a run fills a cell; `key` is the cell key of the run's identity."""
    method = identity["method"]
    if (identity["task"]["name"], method["name"]) != (cell.task, cell.method):
        return False
    # What follows is known without a composition, which takes tens of milliseconds.
    if cell.operator not in (None, (method.get("peft") or {}).get("operator")):
        return False
    if cell.model is not None and fingerprint(cell.model, Paths(results="results")) != identity["model"]:
        return False
    known = protocols(identity["scale"])
    try:
        return any(known.setting(variant).cell_key == key for variant in known.setting(cell).variants)
    except UnavailableError:
        return False
