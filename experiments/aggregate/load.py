"""Reading the records of a results folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..records import SCHEMA, Record

STATUSES = ("running", "finished", "failed", "interrupted")
CELL_FIELDS = {"method", "rank", "operator", "task", "scale", "model", "learning_rate", "seed"}


class ResultsError(Exception):
    """The results folder cannot be used. The message is one line."""


def read_records(results: str | Path) -> tuple[list[Record], list[str]]:
    """All records below `results`/runs by key, and one line for each file that is none.

    Raises:
        ResultsError: `results` is not a folder that can be read.
    """
    folder = Path(results)
    try:
        if not folder.is_dir():
            raise ResultsError(f"--results: {folder} is not a folder")
        runs = folder / "runs"
        paths = sorted(p for p in runs.iterdir() if p.suffix == ".json") if runs.is_dir() else []
    except OSError as error:
        raise ResultsError(f"--results: {folder} cannot be read: {error.strerror}") from None
    records, problems = [], []
    for path in paths:
        try:
            records.append(_record(json.loads(path.read_bytes(), parse_constant=_refuse)))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            problems.append(f"{path.name} is not a readable record and is skipped: {reason}")
    return records, problems


def _record(values: Any) -> Record:
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']}, this version reads {SCHEMA}")
    record = Record(**values)
    for name in ("cell", "config", "metrics", "cost", "provenance"):
        _expect({name: getattr(record, name)}, {name: dict}, "record")
    if record.status not in STATUSES:
        raise ValueError(f"status {record.status!r}")
    if lacking := CELL_FIELDS - record.cell.keys():
        raise ValueError(f"cell lacks {', '.join(sorted(lacking))}")
    if odd := [name for name, value in record.cell.items() if isinstance(value, (list, dict))]:
        raise ValueError(f"cell.{odd[0]} is not one value")
    if type(record.cell["seed"]) is not int or type(record.cell["learning_rate"]) not in (int, float, type(None)):
        raise ValueError("cell.seed or cell.learning_rate is not a number")
    _expect(record.metrics, {"final": dict, "curve": list}, "metrics")
    if not all(type(row) is dict and type(row.get("step")) is int for row in record.metrics["curve"]):
        raise ValueError("a row of metrics.curve has no step")
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _expect(section: dict[str, Any], kinds: dict[str, type], where: str) -> None:
    for name, kind in kinds.items():
        if type(section[name]) is not kind:
            raise ValueError(f"{where}.{name} is not a {kind.__name__}")
