"""The results file of one GPU, results/gpu/<card>.json: the parts of the check, each with its status and its rows."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.files import write_json
from scripts.benchmarks import measured_parts

ENTRIES: measured_parts.Types = {"status": str, "reason": str}  # of a part, beside its rows
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"


class CardFile:
    """The file of one card. Each change is written to the disk at once, so that an end at any time loses no row.

    A part is a dictionary with `status`, `reason` (empty if done), `seconds`, `provenance` and `rows`. A row that
    could not be measured has the key `error`; a row that needs a package which is not installed has `skipped`.

    Args:
        folder: The folder of the files, results/gpu.
        card: The name of the GPU.

    Raises:
        ConfigError: There is such a file, but it holds something else.
    """

    def __init__(self, folder: Path, card: str) -> None:
        self.path = folder / f"{re.sub('[^A-Za-z0-9]+', '-', card).strip('-')}.json"
        self.card = card
        self.parts: dict[str, dict[str, Any]] = read(self.path)["parts"] if self.path.exists() else {}

    def status(self, part: str) -> str | None:
        """`running`, `done`, `failed` or `stopped`; None if the part was never started."""
        status: str | None = self.parts.get(part, {}).get("status")
        return status

    def begin(self, part: str, provenance: dict[str, Any]) -> None:
        """Start a part again, without rows."""
        self.parts[part] = {"status": RUNNING, "reason": "", "seconds": 0.0, "provenance": provenance, "rows": []}
        self._started = time.monotonic()
        self._write()

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Add a row to a part that was begun."""
        self.parts[part]["rows"].append(row)
        self._write()

    def end(self, part: str, status: str, reason: str = "") -> None:
        """Set the final status of a part, which need not have been begun, and why the part is not done."""
        entry = self.parts.setdefault(part, {"seconds": 0.0, "provenance": None, "rows": []})
        entry |= {"status": status, "reason": reason}
        if hasattr(self, "_started"):
            entry["seconds"] = round(time.monotonic() - self._started, 1)
        self._write()

    def forget(self, parts: Sequence[str]) -> None:
        """Remove parts, so that they run again."""
        self.parts = {name: part for name, part in self.parts.items() if name not in parts}
        self._write()

    def errors(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part that could not be measured."""
        return [row for row in self.parts[part]["rows"] if "error" in row]

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"schema": measured_parts.SCHEMA, "card": self.card, "parts": self.parts})


def read(path: Path) -> dict[str, Any]:
    """The content of a results file.

    Raises:
        ConfigError: The file holds something else.
    """
    return measured_parts.read(path, "a file of the GPU check", "move it away", {"card": str}, ENTRIES)
