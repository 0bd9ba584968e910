"""Reads the records of a results folder."""

from __future__ import annotations

from pathlib import Path

from .records import Record, from_json


class ResultsError(Exception):
    """The results folder cannot be used. The message is one line."""


def read_records(results: str | Path) -> tuple[list[Record], list[str]]:
    """The records in `results`/runs, in the order of their keys, and one line for each file that is not a record.

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
            records.append(from_json(path.read_bytes()))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name} is not a readable record and is skipped: {error}")
    return records, problems
