"""Download the models and data that a scale needs, and print their origin.

python scripts/prepare_data.py                       download what the laptop scale lacks, then print a table
python scripts/prepare_data.py --paper               the same for the paper's scale, from the Hugging Face hub
python scripts/prepare_data.py --paper --copies DIR  put the data sets in DIR, for task.data_dir=DIR
python scripts/prepare_data.py --check               print the table; exit code 1 if something is missing
"""

from __future__ import annotations

import sys
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.data import catalogue, copies, sources
from experiments.errors import ConfigError
from experiments.spec.run_config import Paths


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("--check", action="store_true", help="download nothing")
    parser.add_argument("--paper", action="store_true", help="what the paper's scale needs from the Hugging Face hub")
    parser.add_argument("--copies", type=Path, help="with --paper: the folder of the data sets (default: CACHE/hub)")
    parser.add_argument(
        "--cache", type=Path, help="where the files go (default: MORA_CACHE, else the user's cache folder)"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these sources, by the names of the table")
    options = parser.parse_args(arguments)
    cache = options.cache or Paths(results="results").cache_folder
    if options.copies and not options.paper:
        raise ConfigError("--copies needs --paper: the laptop scale reads its files from the cache")
    known: list[str] = [*(copies.SOURCES if options.paper else catalogue.SOURCES)]
    if unknown := [name for name in options.names if name not in known]:
        raise ConfigError(f"no source {unknown[0]!r}; allowed: {', '.join(known)}")
    folder = options.copies or (cache / "hub" if options.paper else cache)
    module = copies if options.paper else sources
    names, problems = options.names or known, []
    for name in [] if options.check else names:
        try:
            module.fetch(name, folder)
        except ConfigError as error:
            problems.append(str(error))
    states = {name: module.state(name, folder) for name in names}
    show_paper(states, folder) if options.paper else show(states, cache)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems or "absent" in states.values() else 0


def show(states: dict[str, str], cache: Path) -> None:
    """Print for each source its content, origin, licence, size and state."""
    rows = []
    for name, state in states.items():
        s = catalogue.SOURCES[name]
        origin = f"{'npm' if s.client == 'npm' else 'PyPI'}: {s.package} {s.version}"
        rows.append([name, s.what, origin, s.licence, s.citation, f"{s.size / 1e6:.1f} MB", state])
    headers = ["source", "what", "from", "licence", "cite", "size", "state"]
    print(tabulate(rows, headers, tablefmt="simple_grid", maxcolwidths=[None, 26, 18, 28, 26, None, None]))
    print(f"cache: {cache / 'sources'}")


def show_paper(states: dict[str, str], folder: Path) -> None:
    """Print for each source of the hub its content, licence, size and state, and how a run reads the copies."""
    rows = []
    for name, state in states.items():
        s = copies.SOURCES[name]
        rows.append([name, s.what, s.licence, s.size, state])
    headers = ["model or data set", "what: tasks", "licence", "size, about", "state"]
    print(tabulate(rows, headers, tablefmt="simple_grid", maxcolwidths=[None, 30, 30, None, None]))
    print(f"models: the cache of the hub's client, HF_HOME; data sets: {folder}")
    print(f"a run on the copies: python run.py task=math scale=paper task.data_dir={folder}")


if __name__ == "__main__":
    sys.exit(script.guarded(main))
