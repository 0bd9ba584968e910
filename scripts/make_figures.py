"""Draw the figures from the records, as SVG and PNG: the paper's figures, the rate searches, and score against cost.

    python scripts/make_figures.py                     every figure at every scale that has records
    python scripts/make_figures.py --figure 3 --scale laptop
    python scripts/make_figures.py --check             exit 1 when a file on disk differs from what the records give

Figure 1 shows Table 2 as curves; Figures 2 to 5 are the paper's. Writes <results>/figures/<scale>/<name>.{svg,png}.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import paper
from experiments.cli import script
from experiments.report import figures, output, pages


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser(__doc__)
    parser.add_argument(
        "--figure", type=int, action="append", choices=paper.FIGURES, help="only this figure (repeatable)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file on disk is out of date")
    options = parser.parse_args(arguments)
    files: output.Files = {}
    for results in pages.by_scale(script.records(options), options.scale):
        scale_files, without_runs = figures.figure_files(results, options.figure, options.results / "figures")
        files |= scale_files
        if without_runs:
            print(f"no runs at scale {results.scale} for: {', '.join(without_runs)}", file=sys.stderr)
    everything = not options.figure and not options.scale
    return script.finish(files, options.check, options.results / "figures" if everything else None)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
