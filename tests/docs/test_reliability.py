"""The page of promises shows the promises and the counts of the tests."""

import ast
import json
import shlex
import subprocess
import sys

from .. import promises
from ..conftest import ROOT

EXAMPLE = """
import pytest

@pytest.mark.promise("It holds.")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_cases(n, counted):
    if n == 3:
        pytest.skip("not here")
    counted(n, "kills")
    counted(10, "inputs tried")

@pytest.mark.promise("It holds.")
@pytest.mark.promise("It breaks.")
def test_broken():
    assert False

@pytest.mark.promise("It is set up.")
def test_unknown_fixture(nothing):
    pass

def test_without_a_promise():
    pass
"""


def test_the_plugin_counts_cases_by_outcome(tmp_path):
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    (tmp_path / "test_other.py").write_text("def test_x(): ...")
    file = tmp_path / "counts.json"
    earlier = {"of": "an earlier run"}
    gone = {"test_gone.py::test_x": earlier, "test_other.py::test_gone": earlier}
    file.write_text(json.dumps({**gone, "test_other.py::test_x": earlier}))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.promises", "--rootdir", str(tmp_path)]
    command += ["-p", "no:cacheprovider", "-o", "addopts=", "-o", "markers=promise", "--promises", str(file)]
    done = subprocess.run([*command, str(tmp_path / "test_example.py")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    known = json.loads(file.read_text())
    assert known.pop("test_other.py::test_x") == {"of": "an earlier run"}
    assert {test: (entry["promises"], entry["outcomes"], entry["counts"]) for test, entry in known.items()} == {
        "test_example.py::test_cases": (
            ["It holds."], {"passed": 2, "skipped": 1}, {"kills": 3, "inputs tried": 20},
        ),
        "test_example.py::test_broken": (["It breaks.", "It holds."], {"failed": 1}, {}),
        "test_example.py::test_unknown_fixture": (["It is set up."], {"failed": 1}, {}),
    }  # fmt: skip
    assert all(entry["commit"].rstrip("+").isalnum() for entry in known.values())


def test_make_reliability_gives_pytest_arguments_that_it_knows():
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "--promises" in line]
    command = [sys.executable, *shlex.split(line)[1:], "--markers"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_is_what_the_counts_give():
    tests = json.loads(promises.DATA.read_text())
    assert promises.PAGE.read_text() == promises.render(tests), "stale: python -m tests.promises"


def test_every_promise_on_the_page_has_its_test():
    for test, entry in json.loads(promises.DATA.read_text()).items():
        assert promises.position(test) >= 0, f"{test} is gone"
        texts = {getattr(node, "value", None) for node in ast.walk(ast.parse((ROOT / test.split("::")[0]).read_text()))}
        assert texts >= set(entry["promises"]), f"{test} has another promise now"
        assert "failed" not in entry["outcomes"], f"{test} failed when it was last counted"


def test_every_test_of_a_promise_is_on_the_page():
    marked = {
        f"{file.relative_to(ROOT).as_posix()}::{node.name}"
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator).startswith("pytest.mark.promise(") for decorator in node.decorator_list)
    }
    assert marked
    missing = marked - set(json.loads(promises.DATA.read_text()))
    assert not missing, f"never counted: {sorted(missing)}; pytest <these tests> --promises=docs/reliability.json"
