"""What code that reads records may import, and that no published number is typed into code."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import paper
from experiments.study.cells import Protocols

from .. import synthetic

ROOT = Path(__file__).parent.parent.parent
RECORD_SCRIPTS = ("plan", "make_tables", "make_figures", "make_report")


def imports(source: str) -> set[str]:
    """The modules that a source imports by an absolute name, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def cells(notebook: Path) -> list[str]:
    content = json.loads(notebook.read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_experiments_never_import_scripts(path):
    assert not [name for name in imports(path.read_text()) if name.split(".")[0] == "scripts"]


@pytest.mark.parametrize("name", RECORD_SCRIPTS)
def test_scripts_only_read_records(name):
    names = imports((ROOT / "scripts" / f"{name}.py").read_text())
    allowed = (
        "experiments.report",
        "experiments.study",
        "experiments.cli",
        "experiments.store",
        "experiments.paper",
        "experiments.errors",
    )
    inside = {n for n in names if n.split(".")[0] in ("experiments", "mora", "scripts")} - {"experiments"}
    assert all(n.startswith(allowed) for n in inside), inside
    assert not {n for n in names if n.split(".")[0] in ("torch", "transformers", "peft", "hydra")}


def test_notebook_only_reads_records_and_has_no_output():
    notebook = ROOT / "notebooks" / "results.ipynb"
    content = json.loads(notebook.read_text())
    assert all(not c.get("outputs") and not c.get("execution_count") for c in content["cells"])
    names = imports("\n".join(cells(notebook)))
    assert {n for n in names if n.startswith(("experiments.", "mora", "scripts"))} <= {
        n
        for n in names
        if n.startswith(("experiments.report", "experiments.study", "experiments.store", "experiments.paper"))
    }


def test_notebook_executes(tmp_path):
    protocols = Protocols("smoke")
    records = [r for c in paper.table_cells(2, "smoke") for r in synthetic.searched(protocols.setting(c), (0, 1))]
    synthetic.write(records, tmp_path)
    source = "\n".join(cells(ROOT / "notebooks" / "results.ipynb")) + "\nassert len(results.records) == 24"
    environment = os.environ | {"MORA_RESULTS": str(tmp_path), "MORA_SCALE": "smoke"}
    subprocess.run([sys.executable, "-c", source], cwd=ROOT / "notebooks", env=environment, check=True)
    empty = environment | {"MORA_SCALE": "paper"}
    source = source.replace("== 24", "== 0")
    subprocess.run([sys.executable, "-c", source], cwd=ROOT / "notebooks", env=empty, check=True)


def published_numbers() -> set[str]:
    """The values of the published tables, without whole numbers, which code may contain for other reasons."""
    rows = [row for number in paper.TABLES for row in paper.published()[f"table{number}"]["rows"]]
    values = {str(v) for row in rows for v in row["values"].values() if v is not None}
    return {v for v in values if not v.endswith(".0")}


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "experiments" / "paper").glob("*.py")),
        *sorted((ROOT / "experiments" / "report").glob("*.py")),
        *(ROOT / "scripts" / f"{n}.py" for n in RECORD_SCRIPTS),
    ],
    ids=lambda p: p.name,
)
def test_no_published_number_is_typed_by_hand(path):
    assert not published_numbers() & set(re.findall(r"\d+\.\d+", path.read_text()))
