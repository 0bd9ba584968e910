"""Reads the records of a results folder."""

from __future__ import annotations

import contextlib
import gc
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError, one_line
from .records import Record, from_file


def read_records(results: str | Path, read: Callable[[Path], Record] = from_file) -> tuple[list[Record], list[str]]:
    """The records in `results`/runs, in the order of their keys, and one line for each file that is not used.

    A file is not used if it is no readable record, if its name is not its key, or if another file holds the same key.

    Args:
        results: The results folder.
        read: Reads one file.

    Raises:
        ConfigError: `results` is not a folder that can be read.
    """
    folder = Path(results)
    try:
        if not folder.is_dir():
            raise ConfigError(f"the results folder {folder} is not a folder")
        runs = folder / "runs"
        paths = sorted(p for p in runs.iterdir() if p.suffix == ".json") if runs.is_dir() else []
    except OSError as error:
        raise ConfigError(f"the results folder {folder} cannot be read: {error.strerror}") from None
    records, problems = [], []
    with _collector_paused():
        for path in paths:
            try:
                records.append((path.name, read(path)))
            except (OSError, ValueError) as error:
                problems.append(f"{path.name} is not a readable record and is skipped: {error}")
    holders = defaultdict(list)
    for name, record in records:
        holders[record.key].append(name)
    for key, names in holders.items():
        if len(names) > 1:
            problems.append(f"{' and '.join(names)} hold the same key {key}: none of them is used")
        elif names != [f"{key}.json"]:
            problems.append(f"{names[0]} is not a readable record and is skipped: it holds the key of {key}.json")
    used = [record for name, record in records if holders[record.key] == [name] == [f"{record.key}.json"]]
    return used, list(map(one_line, problems))


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector, which would go through all records again and again; a record holds no cycles.

    Afterwards the records count as old objects. As young objects they would be gone through at once.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # all objects are old now
        if running:
            gc.enable()
