"""What thousands of records and thousands of cells cost: the tables, the page, and the cells of a sweep.

Times are those of the processor, which other programs on the machine hardly change.
"""

from __future__ import annotations

import copy
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORDS = 5000
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
CELLS = 200  # of a sweep


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for the tables, for the page, and for each way to compose a cell of a sweep."""
    count = RECORDS // 10 if quick else RECORDS
    with tempfile.TemporaryDirectory(prefix="mora-benchmark-") as folder:
        grow(Path(folder) / "runs", count)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*"))
        yield {"what": f"reading {count:,} records as JSON alone", "seconds": by_json(Path(folder)), "bytes": size}
        for script in ("make_tables", "make_report"):
            seconds = of_process([str(ROOT / "scripts" / f"{script}.py"), "--results", folder])
            row = {"what": f"{script}.py, {count:,} records", "seconds": seconds}
            page = Path(folder) / "report.html"
            yield row | ({"bytes": page.stat().st_size} if page.exists() else {})
    yield from composing(CELLS // 10 if quick else CELLS)


def grow(runs: Path, count: int) -> None:
    """Write so many records: those of this project, at other learning rates and with other seeds."""
    from experiments.identity import key_of

    runs.mkdir()
    originals = [json.loads(path.read_bytes()) for path in sorted((ROOT / "results" / "runs").glob("*.json"))]
    written: set[str] = set()
    for seed, rate, original in itertools.product(itertools.count(), RATES, originals):
        values = copy.deepcopy(original)
        for section in (values["identity"], values["cell"], values["config"]):
            section["seed"] = seed
        if values["cell"]["learning_rate"] is not None:
            for section in (values["identity"]["training"], values["cell"], values["config"]["training"]):
                section["learning_rate"] = rate
        values["key"] = key_of(values["identity"])
        values["name"] = f"{original['name'].partition('-lr')[0]}-lr{rate:g}-seed{seed}"
        values["provenance"]["started_at"] += str(len(written))  # as in reality, no two are equal
        values["cost"]["seconds"] += len(written) / 1000
        if values["key"] not in written:
            written.add(values["key"])
            (runs / f"{values['key']}.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
        if len(written) == count:
            return


def by_json(folder: Path) -> float:
    """The seconds in which Python's own reader of JSON reads the files."""
    start = time.process_time()
    for path in folder.rglob("*.json"):
        json.loads(path.read_bytes())
    return time.process_time() - start


def of_process(arguments: list[str]) -> float:
    """The seconds of processor time that a process of Python takes."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
    return spent() - before


def composing(cells: int) -> Iterator[dict[str, Any]]:
    """A row for Hydra alone and a row for `CellComposer`: seconds of processor time for a cell of a sweep."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from experiments.cli.composer import CellComposer
    from experiments.spec import compose

    compose.register()
    GlobalHydra.instance().clear()
    arguments = [
        [f"method={method}", "scale=smoke", f"seed={i}"] for i in range(cells // 2) for method in ("lora", "mora")
    ]
    with initialize_config_dir(str(compose.CONF), version_base=None):
        loader: Any = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("config", [], RunMode.MULTIRUN)
        ways: dict[str, Callable[[Any, list[str]], Any]] = {
            "a cell of a sweep, composed by Hydra alone": loader.load_sweep_config,
            "a cell of a sweep, as run.py composes it": CellComposer(loader),
        }
        seconds = dict.fromkeys(ways, 0.0)
        for cell, (name, way) in itertools.product(arguments, ways.items()):
            start = time.process_time()
            way(sweep, cell)
            seconds[name] += time.process_time() - start
    first, *_ = seconds.values()
    for name, total in seconds.items():
        yield {"what": name, "seconds": total / len(arguments), "ratio": {"value": total / first}}
