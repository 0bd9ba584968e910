"""The notebooks are stored without output, they run, and the statements of their text are true."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.study import study_file
from experiments.study.cells import Protocols

from .. import synthetic
from ..conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The statements in the text of operators.ipynb about the values that its cells compute.
OPERATORS = """
assert ranks["ReMoRA, two groupings"] == ranks["ReMoRA, four groupings"] == [64] + 7 * [112]
assert set(ranks["MoRA restarted, one grouping"]) == {64}
assert ranks["ReLoRA"] == [8, 16, 24, 32, 40, 48, 56, 64]
numerical_ranks = {name: numerical_rank(delta) for name, delta in updates.items()}
assert numerical_ranks == {"LoRA": 8, "truncation": 45, "sharing": 45, "decouple": 128, "rotation": 128}
assert [round(dead(o), 3) for o in wide.values()] == [0.875, 0, 0.625, 0]
assert round(dead_at_size("rotation", 11008, 4096, 8), 2) == 0.62
figures = [plt.figure(number) for number in plt.get_fignums()]
assert len(figures) == 7 and all(figure.axes for figure in figures)
assert not {"experiments", "wandb", "hydra"} & set(sys.modules)
"""


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text())["cells"]


def execute(name: str, assertions: str, **environment: str) -> None:
    """Run the code of a notebook, then the assertions, in a process of their own where a warning is an error."""
    notebook = ROOT / "notebooks" / name
    source = "\n".join("".join(c["source"]) for c in cells(notebook) if c["cell_type"] == "code")
    # plt.show would warn that there is no screen, and would close the figures that the assertions count.
    source = source.replace("plt.show()", "plt.gcf().canvas.draw()") + "\n" + assertions
    command = [sys.executable, "-W", "error", "-c", source]
    environment = os.environ | {"MPLBACKEND": "Agg"} | environment
    done = subprocess.run(command, cwd=notebook.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_output(notebook):
    assert all(not c.get("outputs") and not c.get("execution_count") for c in cells(notebook))


def test_the_text_about_the_operators_is_true():
    execute("operators.ipynb", OPERATORS)


@pytest.mark.slow
def test_the_results_are_shown_with_and_without_records(tmp_path):
    protocols = Protocols("smoke")
    records = [
        r for c in study_file.get("table2").cells("smoke") for r in synthetic.searched(protocols.setting(c), (0, 1))
    ]
    synthetic.write(records, tmp_path)
    for scale, count in (("smoke", len(records)), ("paper", 0)):
        assertions = f"assert len(results.records) == {count} and len(runs) == {len(records)}"
        execute("results.ipynb", assertions, MORA_RESULTS=str(tmp_path), MORA_SCALE=scale)
