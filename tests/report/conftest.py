from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.study.fill import Results

from .. import synthetic


@pytest.fixture(scope="session")
def small() -> Results:
    """The small synthetic set with fixed protocols. Tests must not change it."""
    protocols = synthetic.FixedProtocols("laptop")
    return Results("laptop", synthetic.small_set(protocols), protocols)  # type: ignore[arg-type]


@pytest.fixture
def golden():
    """Compare a text with a file in golden/. With UPDATE_GOLDEN=1 the text is written to the file first."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text(), f"{name} has changed: read the difference, then run with UPDATE_GOLDEN=1"

    return compare
