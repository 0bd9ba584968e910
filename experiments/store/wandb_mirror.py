"""Weights & Biases: a mirror of the record. Whatever goes wrong there is a warning, never the end of a run.

Runs are grouped as the tables are: a group is a cell at a scale, its runs differ in learning rate and seed, and a tag
says which tables it belongs to (a cell can stand in several). Metrics have the record's names.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..identity import group_of
from ..spec.run_config import RunConfig
from .records import Record, curve


def grouping(record: Record, tables: Sequence[str]) -> dict[str, Any]:
    """Where W&B files a run: its group, the kind of job, and its tags.

    Args:
        record: Of the run.
        tables: The names of the tables in which the run fills a cell.
    """
    cell = record.cell
    rank = f"r{cell['rank']}" if cell["rank"] else None
    parts = [p for p in (cell["task"], cell["scale"], cell["method"], rank, cell["operator"]) if p]
    tags = [*tables, *parts, f"seed{cell['seed']}"]
    return {"group": group_of(record.name), "job_type": cell["method"], "tags": tags}


def summary(record: Record) -> dict[str, Any]:
    """What stands beside a run in W&B's table: the record's final metrics, its cost, how it ended."""
    cost = {f"cost/{name}": value for name, value in record.cost.items()}
    return {**record.metrics["final"], **cost, "status": record.status}


class WandbMirror(TrainerCallback):
    """Sends the configuration, each row of the curve, and at the end the final metrics and the cost.

    Online where WANDB_API_KEY or a login is found, offline (a folder below `results/wandb`) where not. The run's id is
    the record's key, so a resumed run continues the same page.
    """

    def __init__(self, config: RunConfig, record: Record, tables: Sequence[str] = ()) -> None:
        self.run: Any = None
        self.sent, self.off = 0, False
        folder = Path(config.paths.results) / "wandb"

        def start() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            os.environ.setdefault("WANDB_SILENT", "true")
            import wandb

            mode = os.environ.get("WANDB_MODE") or self._online_or_offline()
            self.run = wandb.init(
                project=config.logger.project,
                id=record.key,
                name=record.name,
                config=record.config,
                **grouping(record, tables),
                dir=str(folder),
                mode=mode,  # type: ignore[arg-type]
                resume="allow" if mode == "online" else None,
            )

        self._guard(start)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        rows = curve(state.log_history)
        new, self.sent = [r for r in rows if r["step"] > self.sent], int(rows[-1]["step"]) if rows else 0
        for row in new:
            # Committed at once: a row still pending at the end would be written after the summary, and over it.
            self._guard(lambda row=row: self.run.log(row, step=int(row["step"]), commit=True))  # type: ignore[misc]

    def finish(self, record: Record) -> None:
        """Send the summary and close."""
        self._guard(lambda: self.run.summary.update(summary(record)))
        self._guard(lambda: self.run.finish(exit_code=0 if record.status == "finished" else 1))

    @staticmethod
    def _online_or_offline() -> str:
        import wandb

        try:
            return "online" if wandb.login(prompt=False) else "offline"
        except Exception as error:
            print(f"warning: W&B cannot be reached, so this run's copy stays local ({error})", file=sys.stderr)
            return "offline"

    def _guard(self, act: Callable[[], None]) -> None:
        """Do what only W&B may fail at; after one failure nothing more is sent."""
        if self.off:
            return
        try:
            act()
        except Exception as error:
            print(f"warning: W&B failed and is off for this run ({type(error).__name__}: {error})", file=sys.stderr)
            self.off = True
            # Its service may be what died: the next run of a sweep gets a new one, and nothing is left to do at exit.
            with contextlib.suppress(Exception, SystemExit):
                import wandb

                wandb.teardown()
