"""Draw docs/schedules.svg: the learning rate over the steps of the paper's pretraining run, for each schedule.

python scripts/plot_schedules.py             write docs/schedules.svg
python scripts/plot_schedules.py OUT.svg     write another file
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script

STEPS, PEAK = 10_000, 5e-4
RUN: dict[str, Any] = {"steps": STEPS, "warmup": 1_000, "shape": "cosine"}
RESTARTS: dict[str, Any] = {"every": 2_000, "rewarm": 50}


def main(arguments: list[str] | None = None) -> int:
    return script.draw(arguments, __doc__, Path(__file__).parent.parent / "docs" / "schedules.svg", picture)


def picture() -> bytes:
    """The picture as SVG."""
    import matplotlib.pyplot as plt

    from experiments.report import plots
    from mora.schedules import jagged, official_lifted, plain

    steps = range(STEPS)
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    curves = {
        "cosine, no restarts": ([plain(s, **RUN) for s in steps], "0.65", "--"),
        "jagged (ReLoRA's cosine_restarts, floor 0.1)": ([jagged(s, **RUN, **RESTARTS) for s in steps], "C0", "-"),
        "official_lifted (default of the authors' code)": (
            [official_lifted(s, **RUN, **RESTARTS) for s in steps],
            "C3",
            "-.",
        ),
    }
    for label, (values, colour, style) in curves.items():
        axes.plot(steps, [PEAK * v for v in values], style, color=colour, label=label, linewidth=1.2)
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, STEPS), ylim=(0, 1.15 * PEAK))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    return plots.svg(figure)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
