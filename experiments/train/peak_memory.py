"""The most memory that this process has used at one time: on Linux since `reset`, elsewhere since its start."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def reset() -> None:
    """Forget the peak so far, on Linux: a cell of a sweep must not report the peak of an earlier cell."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak() -> int:
    """The peak, in bytes."""
    # On Linux not by getrusage: there a process starts with the peak of its parent.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
