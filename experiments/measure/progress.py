"""The progress bar of a run and of its questions, and times in words."""

from __future__ import annotations

import sys
from typing import Any


def bar(**options: Any) -> Any:
    """A progress bar on standard error. A file gets a line each minute, and a line for each loss that is logged."""
    from tqdm import tqdm

    return tqdm(**options, dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 60)


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
