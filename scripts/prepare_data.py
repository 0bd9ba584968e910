"""Download all models and data that the laptop scale needs, and print their origin.

python scripts/prepare_data.py              download what is missing, then print the table
python scripts/prepare_data.py --check      print the table; exit code 1 if something is missing
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.data import catalogue, sources
from experiments.errors import ConfigError
from experiments.spec.run_config import Paths


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("--check", action="store_true", help="download nothing")
    parser.add_argument(
        "--cache",
        default=os.environ.get("MORA_CACHE") or None,
        help="where the files go (default: MORA_CACHE, else the user's cache folder)",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(catalogue.SOURCES)} (default: all)")
    options = parser.parse_args(arguments)
    if options.cache == "":
        parser.error("argument --cache: must be a folder, got an empty text")
    cache = Paths(results="results", cache=options.cache).cache_folder
    unknown = [name for name in options.names if name not in catalogue.SOURCES]
    if unknown:
        raise ConfigError(f"no source {unknown[0]!r}; allowed: {', '.join(catalogue.SOURCES)}")
    names = options.names or list(catalogue.SOURCES)
    problems = []
    for name in [] if options.check else names:
        try:
            sources.fetch(name, cache)
        except ConfigError as error:
            problems.append(str(error))
    show(names, cache)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if any(sources.state(name, cache) != "ready" for name in names) else 0


def show(names: list[str], cache: Path) -> None:
    """Print for each source its content, origin, licence, size and state."""
    rows = []
    for name in names:
        s = catalogue.SOURCES[name]
        origin = f"{'npm' if s.client == 'npm' else 'PyPI'}: {s.package} {s.version}"
        size = f"{s.size / 1e6:.1f} MB"
        rows.append([name, s.what, origin, s.licence, s.citation, size, sources.state(name, cache)])
    headers = ["source", "what", "from", "licence", "cite", "size", "state"]
    print(tabulate(rows, headers, tablefmt="simple_grid", maxcolwidths=[None, 26, 18, 28, 26, None, None]))
    print(f"cache: {cache / 'sources'}")


if __name__ == "__main__":
    sys.exit(script.guarded(main))
