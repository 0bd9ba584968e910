"""Records as a pandas DataFrame, for notebooks and for other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas

from ..identity import flat
from .folder import read_records
from .records import Record


def frame(results: str | Path = "results") -> pandas.DataFrame:
    """All records of a results folder, a row a record, in the order of their keys.

    The columns are `key`, `name`, `status`; then `cell.*`, `metrics.*` (the final metrics), `cost.*` and `config.*`
    with dotted names, such as `config.training.steps`. What a record does not have is NaN. A warning names each file
    that is no record of this version.

    Raises:
        ConfigError: `results` is not a folder that can be read.
    """
    records, problems = read_records(results)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    rows = [row(record) for record in records]
    columns = dict.fromkeys(name for section in SECTIONS for r in rows for name in r if name.startswith(section))
    return pandas.DataFrame(rows, columns=[*PLAIN, *columns])


PLAIN = ("key", "name", "status")
SECTIONS = ("cell.", "metrics.", "cost.", "config.")


def row(record: Record) -> dict[str, Any]:
    """The columns of a record and their values."""
    values: dict[str, Any] = {name: getattr(record, name) for name in PLAIN}
    sections = (record.cell, record.metrics["final"], record.cost, record.config)
    for prefix, section in zip(SECTIONS, sections, strict=True):
        values |= dict(flat(section, prefix))
    return values
