"""What is promised, and the tests that prove it: a pytest plugin that counts, and the page that shows the counts.

    python -m pytest -m promise --promises=docs/reliability.json     run every such test, the slow ones too
    python -m tests.promises                                         docs/reliability.json -> docs/reliability.md

Each test's entry says at which commit and when it ran. A run of some tests replaces their entries and leaves the rest.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from experiments.files import write_json

ROOT = Path(__file__).parent.parent
DATA, PAGE = ROOT / "docs" / "reliability.json", ROOT / "docs" / "reliability.md"
INTRODUCTION = """# Reliability

Whatever happens to a sweep, no result is lost, no two results are mixed up, and no foreign code runs. For each promise,
this page names the tests that prove the promise: each test causes the fault that the promise is about. The page says
how often the test did so, and the commit and the day of that run. [Recovery](recovery.md) says what a user sees and
does in each case, and what is not deterministic.

`make reliability` runs the tests and writes this page. Edit neither this page nor `reliability.json`.
"""


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[int, str], None]:
    """Call `counted(n, "inputs tried")` when a test did something n times. The calls of all cases of a test add up."""
    return lambda n, what: request.node.user_properties.append(("counted", (n, what)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--promises", type=Path, metavar="FILE", help="write what the tests of promises did to this JSON file"
    )


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--promises")
    if file and not hasattr(config, "workerinput"):  # with pytest-xdist the first process hears of all tests
        config.pluginmanager.register(Outcomes(file, config.rootpath))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for text in dict.fromkeys(marker.args[0] for marker in item.iter_markers("promise")):
            item.user_properties.append(("promise", text))


class Outcomes:
    """Adds up the cases of each test of a promise. Writes the file after each test: a long run may be cut short."""

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, root
        self.at = {"commit": commit(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
        self.promises: dict[str, list[str]] = {}
        self.outcomes: dict[str, dict[str, str]] = {}  # test -> case -> outcome
        self.counts: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        texts = [text for name, text in report.user_properties if name == "promise"]
        if not texts:
            return
        test = report.nodeid.split("[")[0]
        self.promises[test] = texts
        if report.when == "call" or not report.passed:
            self.outcomes.setdefault(test, {})[report.nodeid] = report.outcome
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "counted":
                    self.counts.setdefault(test, Counter())[value[1]] += value[0]
        if report.when == "teardown":
            self.write()

    def write(self) -> None:
        known = json.loads(self.file.read_text()) if self.file.is_file() else {}
        for test, cases in self.outcomes.items():
            known[test] = {
                "promises": self.promises[test],
                "outcomes": dict(Counter(cases.values())),
                "counts": dict(self.counts.get(test, {})),
                **self.at,
            }
        known = {test: entry for test, entry in known.items() if position(test, self.root) >= 0}
        write_json(self.file, known)


def commit() -> str:
    """The commit that is checked out, with a `+` where tracked files other than the page differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "-uno", "--", ".", *(f":!{p.relative_to(ROOT)}" for p in (DATA, PAGE)))
    return git("rev-parse", "--short=10", "HEAD").strip() + "+" * bool(changed)


def render(tests: dict[str, dict[str, Any]]) -> str:
    """The page: a section for each file of tests, with the promises in the order of the file."""
    sections: dict[str, dict[str, list[str]]] = {}
    for test in sorted(tests, key=lambda t: (t.split("::")[0], position(t))):
        for text in tests[test]["promises"]:
            sections.setdefault(test.split("::")[0], {}).setdefault(text, []).append(line(test, tests[test]))
    promises = len({text for section in sections.values() for text in section})
    cases = sum(sum(t["outcomes"].values()) for t in tests.values())
    parts = [INTRODUCTION, f"{promises} promises, {len(tests)} tests, {cases} cases.\n"]
    for file, section in sections.items():
        parts.append(f"## {heading(file)}\n")
        parts += [f"* {text}\n" + "\n".join(lines) for text, lines in section.items()]
        parts[-1] += "\n"
    return "\n".join(parts)


def line(test: str, entry: dict[str, Any]) -> str:
    file, _, name = test.partition("::")
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in sorted(entry["outcomes"].items()))
    counts = "".join(f"; {n:,} {what}" for what, n in sorted(entry["counts"].items()))
    return f"  * [`{name}`](../{file}): {outcomes}{counts} ({entry['commit']}, {entry['date']})"


def position(test: str, root: Path = ROOT) -> int:
    """Where a test stands in its file; -1 where the file does not hold the test."""
    file, _, name = test.partition("::")
    path = root / file
    return path.read_text().find(f"def {name.split('::')[-1]}(") if path.is_file() else -1


def heading(file: str) -> str:
    """The first line of the docstring of a file of tests: what the tests are about."""
    path = ROOT / file
    first = path.read_text().split('"""')[1].splitlines()[0] if path.is_file() else file
    return first.rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(render(json.loads(DATA.read_text())))
