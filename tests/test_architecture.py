"""What no file of the project may contain. Who may import whom is checked by `lint-imports` (pyproject.toml)."""

import pytest

from .conftest import ROOT

FILES = [path for package in ("mora", "experiments", "scripts") for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_no_shell_no_remote_code(path):
    text = path.read_text()
    for banned in ("import pickle", "shell=True", "os.system(", "trust_remote_code=True"):
        assert banned not in text
