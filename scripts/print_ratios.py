"""Print the ratios that each scale keeps from the paper, as the tables of docs/protocols.md.

python scripts/print_ratios.py                   all tasks
python scripts/print_ratios.py uuid pretrain     these tasks
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tabulate import tabulate

from experiments import tasks
from experiments.cli import script

SCALES = ["paper", "workstation", "laptop"]


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    names = list(tasks.names())
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(names)} (default: all)")
    chosen = parser.parse_args(arguments).tasks or names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"TASK must be one of {', '.join(names)}, got {unknown[0]!r}")
    for name in chosen:
        print(table(name))
    return 0


def table(task: str) -> str:
    """The table of a task in Markdown."""
    from experiments.estimate import ratios  # here: a wrong argument is refused before torch is imported

    header = ("ratio", "the paper's rank", *SCALES)
    return f"**{task}**\n\n{tabulate(ratios.lines(task, SCALES), header, tablefmt='pipe', disable_numparse=True)}\n"


if __name__ == "__main__":
    sys.exit(script.guarded(main))
