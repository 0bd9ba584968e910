"""What run.py prints when a run ends: the metrics, the paper's values for the same cell, the cost, the record."""

from __future__ import annotations

from .. import tasks
from ..errors import ConfigError
from ..spec.run_config import RunConfig
from ..store.records import Record, Store
from ..study.printed import paper_values_of


def headline(record: Record) -> tuple[str, float] | None:
    """Name and value of the task's headline metric, or of the first stand-in for this metric that the record holds.

    None if the record holds neither, or if this project does not have the task.
    """
    final = record.metrics["final"]
    try:
        names = tasks.get(record.cell["task"]).headlines
    except ConfigError:
        return None
    return next(((name, final[name]) for name in names if final.get(name) is not None), None)


def headline_text(record: Record) -> str:
    """`char_accuracy 98.2`; empty if the record holds no headline metric."""
    named = headline(record)
    return f"{named[0]} {named[1]:.4g}" if named else ""


def show(record: Record, config: RunConfig) -> None:
    """Print a run's result, and the paper's values with the model that the paper measured them on."""
    path = Store(config.paths.results).path(record.key)
    if record.status != "finished":
        print(f"{record.name}: {record.status}; record: {path}")
        return
    print(f"{record.name}: " + "  ".join(f"{name} {_text(value)}" for name, value in record.metrics["final"].items()))
    by_model: dict[str, list[str]] = {}
    for paper_value in paper_values_of(record.identity):
        by_model.setdefault(paper_value.model, []).append(f"{paper_value.value:g} ({paper_value.where})")
    for model, values in by_model.items():
        print(f"  the paper, on {model}: {'; '.join(values)}")
    if not by_model and tasks.get(record.cell["task"]).paper_model:
        print("  the paper has no value for this cell")
    cost = record.cost
    print(f"  {cost['trainable_parameters']:,} trainable parameters, {cost['seconds']:.0f} s of training")
    print(f"  record: {path}")


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
