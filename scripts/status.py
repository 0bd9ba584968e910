"""Show the runs of a results folder: running, failed, interrupted, finished.

    python scripts/status.py                      show the runs of results/ once
    python scripts/status.py --watch              show them again every two seconds, until Ctrl-C
    python scripts/status.py --results R          show another folder, also while other hosts run cells in this folder

A running run shows its step, loss, learning rate, the time that its training has left, and its process. A failed run
shows the reason and the file with the traceback. Without a terminal, --watch prints once.
Exit codes: 0 shown; 2 a bad argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import dashboard, script


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/ and progress/")
    parser.add_argument("--watch", action="store_true", help="on a terminal, draw the page again every two seconds")
    options = parser.parse_args(arguments)
    dashboard.show(options.results, watch=options.watch)
    return 0


if __name__ == "__main__":
    sys.exit(script.guarded(main))
