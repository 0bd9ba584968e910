"""Records as the report carries them: everything that provenance needs, said once.

Runs of a cell share nearly all of their configuration, versions and hardware, so each section is stored once and named
by its place. A curve has at most 60 points, of five significant digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from ..store.records import Record
from ..study import measures

POINTS = 60
DIGITS = 5


class Shared:
    """Values that are stored once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        said = repr(value)
        if said not in self._places:
            self._places[said] = len(self.values)
            self.values.append(value)
        return self._places[said]


def pack(records: Sequence[Record]) -> dict[str, Any]:
    """`records`: one entry a record, in the order given; `shared`: the sections that their configurations name."""
    shared = Shared()
    return {"records": [_one(r, shared) for r in records], "shared": shared.values}


def _one(record: Record, shared: Shared) -> dict[str, Any]:
    return {
        "key": record.key,
        "name": record.name,
        "status": record.status,
        "diverged": measures.diverged(record),
        "cell": record.cell,
        "final": {name: _short(value) for name, value in record.metrics["final"].items()},
        "cost": record.cost,
        "error": record.error,
        "config": {name: shared.place(section) for name, section in record.config.items()},
        "provenance": {name: shared.place(section) for name, section in record.provenance.items()},
        "curve": _curves(record.metrics["curve"]),
    }


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[list[Any]]]:
    """Name -> steps and values, thinned from the end, so that the last point is there."""
    columns: dict[str, list[tuple[int, Any]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step":
                columns.setdefault(name, []).append((row["step"], value))
    thinned = {name: points[:: -math.ceil(len(points) / POINTS)][::-1] for name, points in columns.items()}
    return {name: [[s for s, _ in points], [_short(v) for _, v in points]] for name, points in thinned.items()}


def _short(value: Any) -> Any:
    if type(value) is not float:
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element whatever its texts say."""
    said = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return said.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
