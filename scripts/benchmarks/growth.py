"""What thousands of records and hundreds of cells cost: the tables, the page, and the cells of a sweep.

Times are processor times, because other programs on the machine change them less than the time of the clock.
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
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
RECORDS = 5000
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
CELLS = 200  # of a sweep
HYDRA = 10  # cells that Hydra alone composes; each takes as long as any other
TABLES, PAGE = "make_tables.py", "make_report.py"
BY_HYDRA, COMPOSED, CHECKED = "composed by Hydra alone", "composed by run.py", "composed and checked by run.py"


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for the tables, for the page, and for each way to compose a cell of a sweep: `seconds`, and `bytes`."""
    count = RECORDS // 10 if quick else RECORDS
    with tempfile.TemporaryDirectory(prefix="mora-benchmark-") as folder:
        grow(Path(folder) / "runs", count)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.json"))
        yield {"command": "json.loads", "of": f"{count:,} records", "seconds": by_json(Path(folder)), "bytes": size}
        for name in (TABLES, PAGE):
            seconds = of_process([str(ROOT / "scripts" / name), "--results", folder])
            row: dict[str, Any] = {"command": name, "of": f"{count:,} records", "seconds": seconds}
            if name == PAGE:
                row["bytes"] = (Path(folder) / "report.html").stat().st_size
            yield row
    yield from composing(CELLS // 10 if quick else CELLS)


def grow(runs: Path, count: int) -> None:
    """Write so many records: those of this project, archived ones too, at other learning rates and with other seeds."""
    from experiments.identity import key_of

    runs.mkdir()
    originals = [json.loads(path.read_bytes()) for path in sorted((ROOT / "results").rglob("runs/*.json"))]
    variants = ((seed, *rest) for seed in itertools.count() for rest in itertools.product(RATES, originals))
    written: set[str] = set()
    for seed, rate, original in variants:
        values = copy.deepcopy(original)
        for section in (values["identity"], values["cell"], values["config"]):
            section["seed"] = seed
        if values["cell"]["learning_rate"] is not None:
            for section in (values["identity"]["training"], values["cell"], values["config"]["training"]):
                section["learning_rate"] = rate
        values["key"] = key_of(values["identity"])
        values["name"] = f"{original['name'].partition('-lr')[0]}-lr{rate:g}-seed{seed}"
        values["provenance"]["started_at"] += str(len(written))  # as in reality, no two are equal
        if "seconds" in values["cost"]:  # a training that diverged may have no cost
            values["cost"]["seconds"] += len(written) / 1000
        if values["key"] not in written:
            written.add(values["key"])
            (runs / f"{values['key']}.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
        if len(written) == count:
            return


def by_json(folder: Path) -> float:
    """The seconds in which Python's own reader of JSON reads the files."""

    def read() -> None:
        for path in folder.rglob("*.json"):
            json.loads(path.read_bytes())

    return spent(read)


def of_process(arguments: list[str]) -> float:
    """The seconds of processor time that a process of Python takes."""

    def so_far() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = so_far()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
    return so_far() - before


def composing(cells: int) -> Iterator[dict[str, Any]]:
    """A row for Hydra alone, for `CellComposer`, and for the whole check of run.py: seconds for a cell of a sweep."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from experiments.cli.composer import CellComposer
    from experiments.cli.sweep import Sweep
    from experiments.spec import compose

    compose.register()
    GlobalHydra.instance().clear()
    arguments = [
        [f"method={method}", "scale=smoke", f"seed={i}"] for i in range(cells // 2) for method in ("lora", "mora")
    ]
    with initialize_config_dir(str(compose.CONF), version_base=None):
        loader: Any = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("config", [], RunMode.MULTIRUN)
        composer, context = CellComposer(loader), SimpleNamespace(config_loader=loader)
        sweeper = SimpleNamespace(hydra_context=context, launcher=None, config=sweep)
        seconds = {
            BY_HYDRA: spent(lambda: [loader.load_sweep_config(sweep, cell) for cell in arguments[:HYDRA]]) / HYDRA,
            COMPOSED: spent(lambda: [composer(sweep, cell) for cell in arguments]) / len(arguments),
            CHECKED: spent(lambda: Sweep().check(sweeper, arguments)) / len(arguments),
        }
    for name, each in seconds.items():
        yield {
            **{"command": name, "of": f"a cell of {cells:,}", "seconds": each},
            "ratio": {"value": each / seconds[BY_HYDRA]},
        }


def spent(work: Callable[[], Any]) -> float:
    """The seconds of processor time that a call takes in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start
