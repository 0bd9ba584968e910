"""The records as the page carries them, for the list of runs and for the provenance of a value.

Runs of a cell share nearly all of their configuration, versions and hardware. So each section is stored once, and a
record holds the place of the section in the list of all sections. The curves stay in the records' own files.
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


def pack(records: Sequence[Record]) -> dict[str, Any]:
    """`records`: one entry for each record, in the same order; `sections`: the sections that the entries point to."""
    sections = SectionList()
    return {"records": [_entry(r, sections) for r in records], "sections": sections.sections}


def _entry(record: Record, sections: SectionList) -> dict[str, Any]:
    return {
        "key": record.key,
        "name": record.name,
        "status": record.status,
        "diverged": measures.diverged(record),
        "cell": record.cell,
        "final": {name: measures.number(value) for name, value in record.metrics["final"].items()},
        "cost": record.cost,
        "error": record.error,
        "config": sections.places(record.config),
        "provenance": sections.places(record.provenance),
    }


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no text in `value` can end the element."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
