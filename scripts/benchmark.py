"""Compare speed and memory with PEFT's LoRA, dense arithmetic and a bare loop; write docs/performance.md.

    python scripts/benchmark.py                       all parts, about 40 minutes on two quiet cores
    python scripts/benchmark.py --only linear,memory  these parts; measurements of other parts stay
    python scripts/benchmark.py --render              write the page again without new measurements

The script stores each part when the part is finished: after an interruption, --only measures the other parts. Exit
codes: 0 done; 1 the page is stale (with --render --check); 2 a bad argument.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import command, script
from experiments.errors import ConfigError
from experiments.files import write_json
from scripts.benchmarks import measured_parts, page
from scripts.gpu import card_file

ROOT = Path(__file__).resolve().parent.parent
PARTS = tuple(page.TITLES)
ENTRIES: measured_parts.Types = {  # of a part, beside its rows
    "quick": bool,
    "cores": int,
    "load_average": list,
    "seconds": (int, float),
    "provenance": dict,
}


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    only = measured_parts.chosen_from(PARTS)
    parser.add_argument("--only", type=only, default=list(PARTS), metavar="A,B,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="measure only a few rounds, for a first look")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmark.json", metavar="JSON")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", metavar="MARKDOWN")
    parser.add_argument("--render", action="store_true", help="write the page from the stored measurements")
    parser.add_argument(
        "--check", action="store_true", help="with --render: write nothing; exit 1 if the page is stale"
    )
    options = parser.parse_args(arguments)
    if options.check and not options.render:
        parser.error("--check works only with --render")
    measurements = read(options.output)
    if not options.render:
        command.prepare_environment()  # before torch is imported
        for name in options.only:
            print(f"measuring: {name}", file=sys.stderr)
            measurements["parts"][name] = part(name, options.quick)
            write_json(options.output, measurements)
    elif not measurements["parts"]:
        raise ConfigError(f"{options.output} holds no measurement; run without --render first")
    cards = [card_file.read(path) for path in sorted((ROOT / "results" / "gpu").glob("*.json"))]
    text = page.render(measurements, cards)
    print(text)
    return script.finish({options.page: text.encode()}, options.check)


def read(path: Path) -> dict[str, Any]:
    """The measurements that a file holds; none if there is no file.

    Raises:
        ConfigError: The file holds something else.
    """
    if not path.exists():
        return {"schema": measured_parts.SCHEMA, "parts": {}}
    return measured_parts.read(path, "a measurement", "name another file with --output", {}, ENTRIES)


def part(name: str, quick: bool) -> dict[str, Any]:
    """Measure one part."""
    load, start = os.getloadavg(), time.perf_counter()
    measure = importlib.import_module(f"scripts.benchmarks.{name}").measure
    import torch

    from experiments.store import provenance
    from experiments.train import trainer as training

    training.quiet()
    torch.manual_seed(0)
    about = provenance.describe()
    rows = list(measure(quick))
    return {
        "quick": quick,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(value, 2) for value in load],
        "seconds": round(time.perf_counter() - start, 1),
        "provenance": about,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(script.guarded(main))
