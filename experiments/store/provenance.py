"""The origin of a result: code, packages, machine, times."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "lm_eval", "hydra-core", "numpy", "bitsandbytes")


def now() -> str:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe() -> dict[str, Any]:
    """The part of the provenance that is known before a run starts."""
    import torch

    return {
        **versions(),
        "python": platform.python_version(),
        "hardware": {
            "platform": platform.platform(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "started_at": now(),
    }


def versions() -> dict[str, Any]:
    """The revision of this project, and the versions of the packages on which numbers depend."""
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    return {"code": code_revision(), "packages": packages}


def load() -> dict[str, Any]:
    """The load at the end of a run: the mean number of running or waiting processes over 15 minutes, and the cores."""
    return {"processes": round(os.getloadavg()[2], 1), "cores": os.cpu_count()}


def code_revision() -> dict[str, Any]:
    """The commit of this project, and whether tracked files differ from the commit; both None outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, encoding="utf-8", errors="replace"
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
