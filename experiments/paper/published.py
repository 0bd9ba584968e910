"""The numbers of the paper, study by study: a table or a figure of the paper is a study of the same name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .. import tasks
from .cell import Cell, label

PUBLISHED = Path(__file__).parent.parent.parent / "results" / "paper" / "paper.json"
LOW, HIGH, PRETRAINING = 8, 256, 128  # the paper's ranks
STEPS = 1000  # of the UUID experiment: what turns a step of Figures 2 and 3 into a fraction of the training
SINGLE_RUNS = "The paper's values are single runs: it gives no seeds and no deviations."
DETAILS = {"table6": "biomed", "table7": "finance"}  # tables whose averages stand in Table 1 too
AVERAGES_OF = {"table1": tuple(DETAILS), "table6": ("table6",), "table7": ("table7",)}
FIGURES = ("figure1", "figure2", "figure3", "figure4", "figure5")
CURVES_OF = {"figure1": "table2"}  # Figure 1 shows Table 2 as curves


@cache
def paper_json() -> dict[str, Any]:
    """The content of paper.json."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def ranks_of(task: str) -> tuple[int, ...]:
    """The ranks of the paper's tables for a task, which each protocol of the task has by their names."""
    return (PRETRAINING,) if task == "pretrain" else (LOW, HIGH)


def is_study(name: str) -> bool:
    """Whether a study is a table or a figure of the paper. paper.json has no numbers of Figures 4 and 5."""
    return name in paper_json() or name in FIGURES


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table of the paper: what its cells have in common, and its values by the names of the columns."""

    method: str
    rank: int | None
    operator: str | None
    values: dict[str, float | None]

    def is_of(self, cell: Cell) -> bool:
        """Whether a row with the method, rank, operator and options of `cell` is this row."""
        return (self.method, self.rank, self.operator) == (cell.method, cell.rank, cell.operator) and not cell.options


@dataclass(frozen=True)
class PublishedCurve:
    """A curve of a figure of the paper: the points (step of the paper, value), and whose they are."""

    method: str
    rank: int | None
    points: tuple[tuple[int, float], ...]


def title(study: str) -> str:
    """The paper's title of a table; empty where paper.json has none of this name."""
    return str(paper_json().get(study, {}).get("title", "")) if study.startswith("table") else ""


def rows(study: str) -> list[PublishedRow]:
    """The rows of a table of the paper; none for another study."""
    table = paper_json().get(study)
    # The rows of the table of operators name no method: all of them are MoRA's.
    return [
        PublishedRow(row.get("method", "mora"), row.get("rank"), row.get("operator"), row["values"])
        for row in (table or {}).get("rows", [])
    ]


def curves(study: str) -> list[PublishedCurve]:
    """The curves of a figure of the paper, those of Figure 1 from the values of Table 2; none for another study."""
    if study in CURVES_OF:
        return [
            PublishedCurve(row.method, row.rank, tuple((int(s), v) for s, v in row.values.items() if v is not None))
            for row in rows(CURVES_OF[study])
        ]
    figure = paper_json().get(study, {})
    found = []
    for name, values in figure.get("series", {}).items():
        method, _, rank = name.partition("_r")
        points = tuple((s, v) for s, v in zip(figure["steps"], values, strict=True) if v is not None)
        found.append(PublishedCurve(method, int(rank) if rank else None, points))
    return found


def read_off(study: str) -> bool:
    """Whether the points of a figure were read off the paper's plot."""
    return study not in CURVES_OF and bool(curves(study))


def notes(study: str) -> tuple[str, ...]:
    """What must be known of the values of the paper in a table; nothing for another study."""
    return (SINGLE_RUNS, *arithmetic_notes(*AVERAGES_OF.get(study, ()))) if rows(study) else ()


def arithmetic_notes(*tables: str) -> tuple[str, ...]:
    """Where printed averages of Tables 6 and 7 disagree with Table 1 or their own columns, found by computing."""
    lines = []
    for name in tables:
        task = tasks.get(DETAILS[name])
        column = task.headline
        summary = {(row.method, row.rank): row.values[column] for row in rows("table1")}
        for row in rows(name):
            parts = [v for metric, v in row.values.items() if metric != "avg" and v is not None]
            mean, here = sum(parts) / len(parts), row.values["avg"]
            there = summary[row.method, row.rank]
            if here is not None and (abs(mean - here) > 0.05 + 1e-9 or here != there):
                printed = f"{here} in Table {name[-1]}" + (f", {there} in Table 1" if here != there else "")
                lines.append(
                    f"{label(row.method, row.rank)}, {task.metric(column).label}: the paper prints {printed}; "
                    f"its columns average {mean:.2f}."
                )
    return tuple(lines)
