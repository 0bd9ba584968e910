"""Draw docs/operators.svg: the update of the weight by each operator, with the same M for all operators.

python scripts/plot_operators.py             write docs/operators.svg
python scripts/plot_operators.py OUT.svg     write another file
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script

IN, OUT, R_HAT = 40, 24, 8
PANELS: dict[str, tuple[str, dict[str, Any]]] = {
    "truncation": ("truncation", {}),
    "sharing, strided": ("sharing", {}),
    "sharing, contiguous": ("sharing", {"in_groups": "contiguous", "out_groups": "contiguous"}),
    "decouple": ("decouple", {}),
    "decouple, surplus=fold": ("decouple", {"surplus": "fold"}),
    "rotation": ("rotation", {}),
}


def main(arguments: list[str] | None = None) -> int:
    return script.draw(arguments, __doc__, Path(__file__).parent.parent / "docs" / "operators.svg", picture)


def picture() -> bytes:
    """The picture as SVG."""
    import matplotlib.pyplot as plt
    import torch

    from experiments.report import plots
    from mora import operators

    figure, axes = plt.subplots(2, 3, figsize=(9, 4.4), layout="constrained")
    # The wave in M shows the position and the orientation of each copy of M. Because of its diagonal M has full rank.
    side = torch.arange(R_HAT) / (R_HAT - 1)
    M = 0.75 * torch.sin(5 * side[:, None] + 2 * side) * (0.4 + 0.6 * side) + 0.25 * torch.eye(R_HAT)
    for axis, (title, (name, options)) in zip(axes.flat, PANELS.items(), strict=True):
        delta = operators.build(name, IN, OUT, R_HAT, **options).delta_weight(M)
        axis.imshow(delta.numpy(), cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
        rank = int(torch.linalg.matrix_rank(delta))
        axis.set_title(f"{title}: rank {rank}, {int((delta.abs().sum(0) == 0).sum())} dead inputs", fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.supxlabel(f"{IN} inputs", fontsize=9)
    figure.supylabel(f"{OUT} outputs", fontsize=9)
    return plots.svg(figure)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
