"""Published numbers are read from paper.json alone, and the notebook of the results runs."""

from __future__ import annotations

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
OURS = ("plan", "make_tables", "make_figures", "make_report")


def cells(notebook: Path) -> list[str]:
    content = json.loads(notebook.read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def test_notebook_has_no_output():
    content = json.loads((ROOT / "notebooks" / "results.ipynb").read_text())
    assert all(not c.get("outputs") and not c.get("execution_count") for c in content["cells"])


def test_notebook_executes(tmp_path):
    protocols = Protocols("smoke")
    made = [r for c in paper.table_cells(2, "smoke") for r in synthetic.searched(protocols.setting(c), (0, 1))]
    synthetic.write(made, tmp_path)
    source = "\n".join(cells(ROOT / "notebooks" / "results.ipynb")) + "\nassert len(results.records) == 24"
    environment = os.environ | {"MORA_RESULTS": str(tmp_path), "MORA_SCALE": "smoke"}
    subprocess.run([sys.executable, "-c", source], cwd=ROOT / "notebooks", env=environment, check=True)
    empty = environment | {"MORA_SCALE": "paper"}
    source = source.replace("== 24", "== 0")
    subprocess.run([sys.executable, "-c", source], cwd=ROOT / "notebooks", env=empty, check=True)


def published_numbers() -> set[str]:
    """Every value of a published table that is unlikely to stand in code for another reason."""
    rows = [row for number in paper.TABLES for row in paper.published()[f"table{number}"]["rows"]]
    values = {str(v) for row in rows for v in row["values"].values() if v is not None}
    return {v for v in values if not v.endswith(".0")}


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "experiments" / "paper").glob("*.py")),
        *sorted((ROOT / "experiments" / "report").glob("*.py")),
        *(ROOT / "scripts" / f"{n}.py" for n in OURS),
    ],
    ids=lambda p: p.name,
)
def test_no_published_number_is_typed_by_hand(path):
    assert not published_numbers() & set(re.findall(r"\d+\.\d+", path.read_text()))
