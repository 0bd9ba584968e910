"""The rules that hold the house up."""

import ast

import pytest

from .conftest import ROOT

FORBIDDEN = {
    "mora": {"experiments", "scripts", "hydra", "omegaconf", "wandb", "lm_eval", "datasets"},
    "experiments": {"scripts", "run", "tests"},
    "scripts": {"tests"},
}
FILES = [p for package in FORBIDDEN for p in sorted((ROOT / package).rglob("*.py"))]


def imported(path) -> set[str]:
    """The top-level packages that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    package = path.relative_to(ROOT).parts[0]
    assert not imported(path) & FORBIDDEN[package]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_no_shell_no_remote_code(path):
    text = path.read_text()
    for banned in ("import pickle", "shell=True", "os.system(", "trust_remote_code=True"):
        assert banned not in text
