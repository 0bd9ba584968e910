"""The most memory that was in use at one time: on a GPU or on Linux since `reset`, elsewhere since the process started.

On a GPU it is the memory of the GPU that torch holds, and else the memory of the process.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def reset(device: str = "cpu") -> None:
    """Forget the peak so far: a cell of a sweep must not report the peak of an earlier cell."""
    if device == "cuda":
        import torch

        return torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak(device: str = "cpu") -> int:
    """The peak, in bytes."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    # On Linux not by getrusage: there a process starts with the peak of its parent.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
