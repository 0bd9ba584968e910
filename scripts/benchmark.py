"""Compare speed and memory with PEFT's LoRA, dense arithmetic and a bare loop; write docs/performance.md.

    python scripts/benchmark.py                       all parts, about 40 minutes on two quiet cores
    python scripts/benchmark.py --only linear,memory  these parts; measurements of other parts stay
    python scripts/benchmark.py --render              write the page again without new measurements

The script stores each part when the part is finished: after an interruption, --only measures the other parts. Exit
codes: 0 done; 1 the page is stale (with --render --check); 2 a bad argument.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import command, script
from experiments.errors import ConfigError
from experiments.files import write_json
from scripts.benchmarks import page
from scripts.gpu import card_file

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = 1
PARTS = tuple(page.TITLES)


def names(text: str) -> list[str]:
    """The type of a list of parts, such as linear,memory. Gives the parts in the order in which they run."""
    parts = text.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no part; allowed: {', '.join(PARTS)}")
    return [name for name in PARTS if name in parts]


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("--only", type=names, default=list(PARTS), metavar="A,B,...", help=f"of {', '.join(PARTS)}")
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
    try:
        measurements: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if measurements["schema"] != SCHEMA or not isinstance(measurements["parts"], dict):
            raise ValueError(f"schema {measurements['schema']}, this version reads {SCHEMA}")
    except FileNotFoundError:
        return {"schema": SCHEMA, "parts": {}}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a measurement ({error}); name another file with --output") from None
    return measurements


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
