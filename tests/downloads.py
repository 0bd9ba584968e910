"""Tells a failed download apart from a failed test: a pytest plugin that names the tests whose data did not arrive.

What a test needs is downloaded by the code under test, into the cache, when the test asks for it. Such a test fails
without a network, and then says nothing about the code.
"""

from __future__ import annotations

import pytest

from experiments.data.sources import NO_DOWNLOAD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    stats = terminalreporter.stats
    failed = [report for kind in ("failed", "error") for report in stats.get(kind, []) if lacks_data(report)]
    if failed:
        terminalreporter.section("failed downloads", red=True)
        terminalreporter.line(f"{len(failed)} of the failed tests lack data that {NO_DOWNLOAD}")
        for report in failed:
            terminalreporter.line(f"  {report.nodeid}")


def lacks_data(report: pytest.TestReport) -> bool:
    """Whether the error of a test, or what the processes of the test printed, is that of a failed download."""
    return any(NO_DOWNLOAD in text for text in (report.longreprtext, *(text for _, text in report.sections)))
