"""What a run prints at its end: its metrics, the paper's values for the same cell, and where the record is."""

from __future__ import annotations

from .. import paper, tasks
from ..spec.run_config import RunConfig
from ..store.records import Record, Store


def headline(record: Record) -> float | None:
    """The value of the task's headline, or of the first of its stand-ins that the record holds."""
    final = record.metrics["final"]
    return next((final[name] for name in tasks.get(record.cell["task"]).headlines if name in final), None)


def show(record: Record, config: RunConfig) -> None:
    """Print a run's result. What the paper has beside it was measured on its own model, whatever the scale here."""
    path = Store(config.paths.results).path(record.key)
    if record.status != "finished":
        print(f"{record.name}: {record.status}; record: {path}")
        return
    print(f"{record.name}: " + "  ".join(f"{name} {value:.4g}" for name, value in record.metrics["final"].items()))
    printed = [f"{value:g} ({where})" for where, value in paper.beside(record.cell, config.protocol)]
    model = tasks.of(config).paper_model
    print(f"  the paper, on {model}: {'; '.join(printed)}" if printed else "  the paper has no value for this cell")
    cost = record.cost
    print(f"  {cost['trainable_parameters']:,} trainable parameters, {cost['seconds']:.0f} s of training")
    print(f"  record: {path}")
