"""The notebook that explains the operators: stored without output, runs, and says what is so."""

import json
import os
import subprocess
import sys

import pytest

from ..conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "operators.ipynb"
# What the text beside the pictures says, on the values that the cells leave.
CLAIMS = """
assert ranks["ReMoRA, two groupings"] == ranks["ReMoRA, four groupings"] == [64] + 7 * [112]
assert set(ranks["MoRA restarted, one grouping"]) == {64}
assert ranks["ReLoRA"] == [8, 16, 24, 32, 40, 48, 56, 64]
found = {name: numerical_rank(delta) for name, delta in updates.items()}
assert found == {"LoRA": 8, "truncation": 45, "sharing": 45, "decouple": 128, "rotation": 128}
assert [round(dead(o), 3) for o in wide.values()] == [0.875, 0, 0.625, 0]
assert round(dead_at_size("rotation", 11008, 4096, 8), 2) == 0.62
figures = [plt.figure(number) for number in plt.get_fignums()]
assert len(figures) == 7 and all(figure.axes for figure in figures)
assert not {"experiments", "wandb", "hydra"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_it_is_stored_without_output(cells):
    assert all(not c.get("outputs") and not c.get("execution_count") for c in cells)


def test_it_executes_and_its_text_is_true(cells):
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    # Pictures are counted at the end: plt.show would otherwise warn that there is no screen.
    source = source.replace("plt.show()", "plt.gcf().canvas.draw()") + CLAIMS
    environment = os.environ | {"MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "error", "-c", source]
    done = subprocess.run(command, cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
