"""What a run prints at its end."""

from __future__ import annotations

from . import tasks
from .config import RunConfig
from .records import Record, Store


def headline(record: Record) -> float | None:
    """The value of the metric to look at first."""
    return record.metrics["final"].get(tasks.get(record.cell["task"]).headline)


def show(record: Record, config: RunConfig) -> None:
    """Print the metrics and where the record is."""
    path = Store(config.paths.results).path(record.key)
    if record.status != "finished":
        print(f"{record.name}: {record.status}; record: {path}")
        return
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics["final"].items())
    cost = record.cost
    print(f"{record.name}: {metrics}")
    print("  paper: no value for this cell")
    print(f"  {cost['trainable_parameters']:,} trainable parameters, {cost['seconds']:.0f} s of training")
    print(f"  record: {path}")
