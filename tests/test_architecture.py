"""No file contains forbidden code, and no two files or classes have the same name.

Who may import whom is checked by `lint-imports` (pyproject.toml).
"""

import re
from collections import Counter

import pytest

from .conftest import ROOT

FILES = [path for package in ("mora", "experiments", "scripts") for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_no_shell_no_remote_code(path):
    text = path.read_text()
    for banned in ("import pickle", "shell=True", "os.system(", "trust_remote_code=True"):
        assert banned not in text


def test_no_two_files_and_no_two_classes_share_a_name():
    names = [path.name for path in FILES if path.name != "__init__.py"]
    classes = [name for path in FILES for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)]
    assert [name for name, count in Counter(names + classes).items() if count > 1] == []
