"""The tests that are marked `gpu`, each as a row of the GPU check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .device import Device
from .parts import Emit, Row

ROOT = Path(__file__).parents[2]
DEVICE = "GPU_CHECK_DEVICE"  # the environment variable that tells the tests their device


class Outcomes:
    """A plugin of pytest that hands on the outcome of each test."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest after the preparation, the call and the clean-up of each test."""
        if report.when != "call" and report.passed:
            return
        row: Row = {"test": report.nodeid.rsplit("::", 1)[-1], "seconds": round(report.duration, 1)}
        row |= dict(report.user_properties)  # what the test has measured
        if report.skipped:
            row["skipped"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            row["error"] = (crash.message if crash else str(report.longrepr)).strip().splitlines()[0]
        self.emit(row)


def measure(device: Device, emit: Emit, results: Path, tests: Path = ROOT / "tests" / "gpu") -> None:
    """A row for each test below `tests`.

    Raises:
        RuntimeError: pytest could not run the tests.
        KeyboardInterrupt: pytest was interrupted.
    """
    import pytest

    os.environ[DEVICE] = device.name
    place = ["--rootdir", str(ROOT), "--config-file", str(ROOT / "pyproject.toml"), "--override-ini", "timeout=300"]
    quiet = ["-m", "gpu", "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist"]
    # pytest warns that hydra was imported before pytest, and the project's settings make a warning an error.
    quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([str(tests), *place, *quiet], plugins=[Outcomes(emit)])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with code {int(code)} ({pytest.ExitCode(code).name})")
