"""What a run prints at its end: its metrics, the paper's values for the same cell, and where the record is."""

from __future__ import annotations

from . import paper, tasks
from .config import RunConfig
from .records import Record, Store

PAPER_MODEL = {"pretrain": "LLaMA 250M"}  # every other task: LLaMA-2 7B


def headline(record: Record) -> float | None:
    """The value of the metric to look at first."""
    return record.metrics["final"].get(tasks.get(record.cell["task"]).headline)


def show(record: Record, config: RunConfig) -> None:
    """Print a run's result. What the paper has beside it was measured on its own model, whatever the scale here."""
    path = Store(config.paths.results).path(record.key)
    if record.status != "finished":
        print(f"{record.name}: {record.status}; record: {path}")
        return
    print(f"{record.name}: " + "  ".join(f"{name} {value:.4g}" for name, value in record.metrics["final"].items()))
    values = published(config)
    model = PAPER_MODEL.get(config.task.name, "LLaMA-2 7B")
    print(f"  paper ({model}): {'; '.join(values)}" if values else "  paper: no value for this cell")
    cost = record.cost
    print(f"  {cost['trainable_parameters']:,} trainable parameters, {cost['seconds']:.0f} s of training")
    print(f"  record: {path}")


def published(config: RunConfig) -> list[str]:
    """The paper's values for the cell that `config` stands for; a scale's low and high rank stand for 8 and 256."""
    rank = paper_rank(config)
    found = []
    for number in paper.TABLES:
        table = paper.table(number)
        for row in table.rows:
            for column in table.columns:
                cell = table.cell(row, column)
                same = (cell.task, cell.method, cell.rank) == (config.task.name, config.method.name, rank)
                same = same and cell.operator in (None, config.method.operator) and cell.model in (None, config.model)
                value = row.published.get(column.name)
                if same and not cell.options and value is not None:
                    found.append(f"{column.label} {value:g} (Table {number}{f', r = {rank}' if rank else ''})")
    return found


def paper_rank(config: RunConfig) -> int | None:
    """The rank of the paper that this run's stands for."""
    if config.method.rank is None:
        return None
    if config.task.name == "pretrain":
        return paper.PRETRAINING if config.method.rank == config.protocol["rank"] else None
    ranks = config.protocol.get("ranks", {})
    return {ranks.get("low"): paper.LOW, ranks.get("high"): paper.HIGH}.get(config.method.rank, -1)
