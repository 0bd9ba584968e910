"""The records as the page carries them, for the list of runs and for the provenance of a value.

Runs of a cell share nearly all of their configuration, versions and hardware. So each section is stored once, and a
record holds the place of the section in the list of all sections. Names of fields stand once too. The page leaves out
the curves, the times of a run, and the digits of a number after the sixth: the file of the record has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..store.records import Record
from ..study import measures


class SectionList:
    """Different sections of records, each stored once."""

    def __init__(self) -> None:
        self.sections: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, section: Any) -> int:
        """The index of `section` in `sections`, to which it is added if it is new."""
        text = repr(section)
        if text not in self._places:
            self._places[text] = len(self.sections)
            self.sections.append(section)
        return self._places[text]

    def places(self, sections: dict[str, Any]) -> dict[str, int]:
        """The place of each of several sections, by name."""
        return {name: self.place(section) for name, section in sections.items()}


FIELDS = (
    *("key", "name", "status", "diverged", "cell", "learning_rate", "seed"),
    *("final", "cost", "error", "config", "provenance"),
)
OF_ONE_RUN = ("started_at", "finished_at", "load")  # entries of a provenance
DIGITS = 6


def pack(records: Sequence[Record]) -> dict[str, Any]:
    """What page/report.js unpacks.

    Returns:
        `fields`: the names of `FIELDS`; `records`: for each record, in the same order, a value for each field;
        `sections`: what the places in these values point to. The value of `cell`, `error`, `config` and `provenance` is
        a place. The sections of the last two are again places, by name. `final` and `cost` are a list: the place of the
        names, then the numbers.
    """
    sections = SectionList()
    return {"fields": FIELDS, "records": [_entry(r, sections) for r in records], "sections": sections.sections}


def _entry(record: Record, sections: SectionList) -> list[Any]:
    config = {name: section for name, section in record.config.items() if name != "seed"}
    provenance = {name: section for name, section in record.provenance.items() if name not in OF_ONE_RUN}
    return [
        record.key,
        record.name,
        record.status,
        int(measures.diverged(record)),
        sections.place({name: v for name, v in record.cell.items() if name not in ("learning_rate", "seed")}),
        record.cell["learning_rate"],
        record.cell["seed"],
        _numbers(record.metrics["final"], sections),
        _numbers(record.cost, sections),
        sections.place(record.error),
        sections.place(sections.places(config)),
        sections.place(sections.places(provenance)),
    ]


def _numbers(values: dict[str, Any], sections: SectionList) -> list[Any]:
    return [sections.place(list(values)), *(_rounded(measures.number(value)) for value in values.values())]


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.{DIGITS}g}")


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no text in `value` can end the element."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
