"""The most memory that this process has held: on Linux since `reset`, elsewhere since it started."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def reset() -> None:
    """Begin anew, where the system can. Without it a cell of a sweep would answer for those before it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes."""
    # Not getrusage: what it says of a process begins with what its parent held.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
