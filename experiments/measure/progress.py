"""The progress bar of a run and of its questions."""

from __future__ import annotations

import sys
from typing import Any


def bar(**options: Any) -> Any:
    """A progress bar on standard error. A file gets a line each minute, and a line for each loss that is logged."""
    from tqdm import tqdm

    return tqdm(**options, dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 60)
