"""Synthetic records. They are complete and deterministic, and have the keys of the real protocols."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import tasks
from experiments.identity import key_of
from experiments.paper import Cell
from experiments.spec import shapes
from experiments.store.records import Record
from experiments.study import rates, study_file
from experiments.study.cells import CellSetting

TABLES = (1, 2, 3, 4, 6, 7)
RANKS = {8: 4, 16: 6, 32: 9, 64: 14, 128: 8, 256: 32}
STEPS = 100


class FixedProtocols:
    """Protocols that do not come from conf/, so that golden files do not change when a protocol is tuned."""

    def __init__(self, scale: str) -> None:
        self.scale = scale

    def setting(self, cell: Cell) -> CellSetting:
        rank = None if cell.rank is None else RANKS[cell.rank]
        candidates = () if cell.method == "none" else (1e-3, BEST, 1e-2)
        identity = {
            "cell": dataclasses.asdict(cell) | {"options": list(cell.options), "search": list(cell.search)},
            "task": {"name": cell.task},
            "method": {"name": cell.method},
            "scale": self.scale,
            "training": {},
            "seed": 0,
            "hardware": {},
        }
        operator = cell.operator or ("sharing" if cell.method in ("mora", "remora") else None)
        model = cell.model or "tiny"
        use = candidates[0] if candidates else 1e-3
        return CellSetting(
            cell, self.scale, tuple(self._arguments(cell)), rank, operator, model, candidates, use, identity
        )

    def command(self, cell: Cell) -> str:
        return shlex.join(["python", "run.py", *self._arguments(cell)])

    def _arguments(self, cell: Cell) -> list[str]:
        arguments = [f"method={cell.method}", f"task={cell.task}", f"scale={self.scale}"]
        return arguments + ([f"method.rank={RANKS[cell.rank]}"] if cell.rank else []) + list(cell.options)


BEST = 3e-3


def noise(*what: Any) -> float:
    """A number in [-1, 1) that depends only on `what`."""
    return int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16) / 2**31 - 1


def best_rate(setting: CellSetting) -> float:
    """The middle one of the candidates."""
    return setting.candidates[len(setting.candidates) // 2]


SPEED = {"fft": 3.0, "mora": 2.0, "lora": 1.0, "relora": 1.2, "remora": 2.4}


def record(setting: CellSetting, rate: float, seed: int, *, status: str = "finished", **changes: Any) -> Record:
    """A run of `setting` whose numbers follow its method, rank, rate and seed."""
    cell = setting.cell
    # The best rate is the middle candidate; a rate that is 3 times lower or higher learns half as fast, and loses 0.1.
    off = abs(math.log(rate / best_rate(setting), 3)) if setting.candidates else 0
    speed = SPEED.get(cell.method, 1.5) * (1 + math.log2((cell.rank or 256) / 8) / 5) * 2 ** (1 - off)
    scatter = 0.02 * noise(cell, rate, seed)
    curve = []
    for step in range(10, STEPS + 1, 10):
        done = 1 / (1 + math.exp(-(speed * step / 25 - 5))) + scatter * step / STEPS
        row = {"step": step, "loss": round(3.0 - 2.8 * done + 0.1 * off, 4), "learning_rate": rate}
        if cell.task == "uuid":
            row["char_accuracy"] = round(min(100.0, 9.8 + 90 * done), 2)
        curve.append(row)
    score = round(100 * min(1.0, max(0.0, done)), 2)
    final: dict[str, float] = {}
    columns = (column for n in TABLES for column in study_file.get(f"table{n}").columns)
    for name in {column.metric for column in columns if column.task == cell.task}:
        higher = tasks.metric(cell.task, name).higher_is_better
        final[name] = score if higher else round(30 - 4 * speed / 2 + 10 * scatter, 3)
    if selection := tasks.get(cell.task).selection:
        final[selection] = round(3.1 - 2.8 * done + 0.1 * off, 4)
    metrics: dict[str, Any] = {"final": final, "curve": curve}
    if cell.task == "pretrain":
        high = 40 if "mora" in cell.method else 8
        metrics["spectrum"] = {
            p: {"above": high + i + 5 * scatter, "layers": 3} for i, p in enumerate(shapes.PROJECTIONS)
        }
    model = changes.pop("model", setting.model)
    run = Record(
        setting.key(rate, seed),
        f"{cell.task}-{setting.scale}-{cell.method}",
        status,
        {
            "method": cell.method,
            "rank": setting.rank,
            "operator": setting.operator,
            "task": cell.task,
            "scale": setting.scale,
            "model": model,
            "learning_rate": rate,
            "seed": seed,
        },
        {"training": {"steps": STEPS, "learning_rate": rate}, "hardware": {}, "model": model},
        setting.run_identity(rate, seed),
        metrics,
        {
            "trainable_parameters": 1000 * (setting.rank or 600),
            "total_parameters": 650_000,
            "seconds": round(20 + 5 * speed + scatter, 2),
            "tokens": 10_000,
            "tokens_per_second": 400.0,
            "peak_memory_bytes": 2**29,
            "adapter_bytes": 4000 * (setting.rank or 600),
        },
        {
            "code": {"commit": "0123abc", "dirty": False},
            "packages": {"torch": "2.13.0", "peft": "0.21.0"},
            "python": "3.11.7",
            "data_fingerprint": "feed",
        },
    )
    if status == "failed":
        run.metrics = {"final": {}, "curve": curve[:3]}
        run.error = {"type": "RuntimeError", "message": "out of memory"}
    return dataclasses.replace(run, **changes)


def diverged(setting: CellSetting, rate: float, seed: int) -> Record:
    """A run that stopped at a loss that is not a number."""
    run = record(setting, rate, seed, status="failed")
    run.metrics["curve"][-1]["loss"] = None
    run.error = {"type": "FloatingPointError", "message": "the loss is not finite at step 30"}
    return run


def bare(name: str, status: str = "finished", **changes: Any) -> Record:
    """A record that holds no more than it must. Its key depends on its name."""
    identity = {
        "task": {"name": "uuid"},
        "method": {"name": "mora"},
        "scale": "smoke",
        "training": {},
        "hardware": {},
        "seed": 0,
        "name": name,
    }
    cell = {"method": "mora", "task": "uuid", "scale": "smoke", "model": "tiny", "seed": 0}
    cell |= dict.fromkeys(("rank", "operator", "learning_rate"))
    cost = {"trainable_parameters": 1.0, "seconds": 1.0} | changes.pop("cost", {})
    if status == "finished":
        changes.setdefault("metrics", {"final": {"char_accuracy": 50.0}, "curve": []})
    return Record(key_of(identity), name, status, cell, changes.pop("config", {}), identity, cost=cost, **changes)


def searched(setting: CellSetting, seeds: Iterable[int]) -> list[Record]:
    """A whole search at seed 0, with rates on both sides of the best one, and all the seeds at the best rate."""
    if not setting.candidates:
        return [record(setting, setting.default_rate, 0)]
    best = best_rate(setting)
    every_rate = {*setting.candidates, rates.next_rate(best, False), rates.next_rate(best, True)}
    return [*(record(setting, r, 0) for r in sorted(every_rate)), *(record(setting, best, s) for s in seeds if s)]


def measured(setting: CellSetting, finals: Sequence[dict[str, float]]) -> list[Record]:
    """A whole search. Its runs at the best rate have these final metrics, one for each seed. No metrics, no records.

    The runs at the other rates are worse in each metric.
    """
    records = searched(setting, range(len(finals))) if finals else []
    for run in records:
        final = finals[run.cell["seed"]]
        if run.cell["learning_rate"] == best_rate(setting):
            run.metrics["final"] = {"value_loss": 0.0} | final
        else:
            run.metrics["final"] |= {name: _worse(setting.cell.task, name, value) for name, value in final.items()}
    return records


def _worse(task: str, name: str, value: float) -> float:
    """A value by a tenth worse, where `name` is a metric of the task."""
    metric = next((metric for metric in tasks.get(task).metrics if metric.name == name), None)
    return value if metric is None else value * (0.9 if metric.higher_is_better else 1.1)


def write(records: Iterable[Record], results: Path) -> Path:
    """Write records as a run does, but without a flush or a rename."""
    runs = results / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for run in records:
        (runs / f"{run.key}.json").write_text(json.dumps(dataclasses.asdict(run), indent=1, sort_keys=True) + "\n")
    return results


def small_set(protocols: Any) -> list[Record]:
    """Table 2 with three seeds, Table 3 with two seeds, and one run of Table 1.

    In Table 2 one run diverged, a candidate of another row failed, and the last row has one rate and one seed.
    """
    rows = [Cell("uuid", m, r) for m, r in (("fft", None), ("lora", 8), ("mora", 8), ("lora", 256), ("mora", 256))]
    runs = [r for c in rows[:-1] for r in searched(protocols.setting(c), (0, 1, 2))]
    runs.append(record(protocols.setting(rows[-1]), BEST, 0))
    runs += [r for m in SPEED if m != "fft" for r in searched(protocols.setting(Cell("pretrain", m, 128)), (0, 1))]
    runs.append(record(protocols.setting(Cell("math", "mora", 8)), BEST, 0))
    diverged_cell, failed_cell = protocols.setting(rows[1]), protocols.setting(rows[3])
    by_key = {r.key: r for r in runs}
    by_key[diverged_cell.key(BEST, 2)] = diverged(diverged_cell, BEST, 2)
    by_key[failed_cell.key(1e-3, 0)] = record(failed_cell, 1e-3, 0, status="failed")
    return list(by_key.values())
