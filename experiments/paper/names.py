"""The paper's methods and ranks by name, and its numbers as they are in paper.json."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parent.parent.parent / "results" / "paper" / "paper.json"
LOW, HIGH, PRETRAINING = 8, 256, 128  # the paper's ranks


@cache
def paper_json() -> dict[str, Any]:
    """The content of paper.json."""
    return json.loads(PUBLISHED.read_text())
