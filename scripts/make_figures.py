"""Draw the figures of studies, as SVG and PNG: training curves, learning-rate searches, score against cost, spectra.

    python scripts/make_figures.py                     every study that has runs
    python scripts/make_figures.py --figure 3 --scale laptop
    python scripts/make_figures.py --study tickets     a study of conf/study, of <results>/studies, or of a .yaml file
    python scripts/make_figures.py --check             exit 1 when a file on disk differs from what the records give

Figure 1 shows Table 2 as curves; Figures 2 to 5 are the paper's. Writes <results>/figures/<scale>/<name>.{svg,png}.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.report import figures, output, pages


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser(__doc__, arguments)
    script.add_studies(parser, "figure")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file on disk is out of date")
    options = parser.parse_args(arguments)
    chosen = script.studies(options, "figure")
    files: output.Files = {}
    for results, with_runs in pages.sections(script.records(options.results), options.results, options.scale):
        drawn, without_runs = figures.figure_files(results, chosen or with_runs, options.results / "figures")
        files |= drawn
        if without_runs:
            print(f"no runs at scale {results.scale} for: {', '.join(without_runs)}", file=sys.stderr)
    everything = not chosen and not options.scale
    return script.finish(files, options.check, options.results / "figures" if everything else None)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
