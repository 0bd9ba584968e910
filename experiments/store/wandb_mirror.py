"""Weights & Biases: a mirror of the record. A failure of W&B is a warning, and the run goes on.

W&B groups the runs as the tables do: a group is a cell at a scale, and its runs differ in learning rate and seed. Tags
name the tables in which the cell stands. Metrics have the same names as in the record.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from .. import redact
from ..identity import group_of
from ..spec.run_config import RunConfig
from .records import Record, curve

CONNECTING = 5.0  # seconds that a connection to W&B's server may take, before the copy of a run stays local
SLOWEST = 30.0  # seconds that W&B has to register a run, and to send what is left at the end


def grouping(record: Record, tables: Sequence[str]) -> dict[str, Any]:
    """The group, the job type and the tags of a run.

    Args:
        record: The record of the run.
        tables: The names of the tables in which the run fills a cell.
    """
    cell = record.cell
    rank = f"r{cell['rank']}" if cell["rank"] else None
    parts = [p for p in (cell["task"], cell["scale"], cell["method"], rank, cell["operator"]) if p]
    tags = [*tables, *parts, f"seed{cell['seed']}"]
    return {"group": group_of(record.name), "job_type": cell["method"], "tags": tags}


def summary(record: Record) -> dict[str, Any]:
    """The columns of a run in W&B's table: final metrics, cost and status of the record."""
    cost = {f"cost/{name}": value for name, value in record.cost.items()}
    return {**record.metrics["final"], **cost, "status": record.status}


def reachable(address: str) -> bool:
    """Whether the server at an address takes a connection. Behind a proxy, W&B's own client has to try."""
    if urllib.request.getproxies().keys() - {"no"}:  # "no" lists hosts that need no proxy
        return True
    with contextlib.suppress(OSError, ValueError):
        parts = urllib.parse.urlsplit(address)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), CONNECTING):
            return True
    return False


class WandbMirror(TrainerCallback):
    """Sends the configuration, each row of the curve, and at the end the final metrics and the cost.

    With WANDB_API_KEY or a login the mirror is online. Without them, or without a network, the mirror is a folder below
    `results/wandb`. The id of the run is the key of the record, so a resumed run continues on the same page of W&B. W&B
    gets nothing that is printed, except for the error of a run that fails, without the secrets in its message.
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
            if mode == "online" and not reachable(wandb.setup().settings.base_url):
                print("warning: W&B cannot be reached, so this run's copy stays local", file=sys.stderr)
                mode = "offline"
            self.run = wandb.init(
                project=config.logger.project,
                id=record.key,
                name=record.name,
                config=record.config,
                **grouping(record, tables),
                dir=str(folder),
                mode=mode,  # type: ignore[arg-type]
                resume="allow" if mode == "online" else None,
                # W&B would copy what is printed before `redact` hides the secrets in it, and the address of the git
                # remote, which may hold a token.
                settings=wandb.Settings(
                    console="off",
                    disable_git=True,
                    init_timeout=SLOWEST,
                    finish_timeout=SLOWEST,
                    finish_timeout_raises=True,
                ),
            )

        self._guard(start)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        rows = curve(state.log_history)
        new, self.sent = [r for r in rows if r["step"] > self.sent], int(rows[-1]["step"]) if rows else 0
        for row in new:
            # W&B writes a row that is not committed after the summary, and so over the values of the summary.
            self._guard(lambda row=row: self.run.log(row, step=int(row["step"]), commit=True))  # type: ignore[misc]

    def finish(self, record: Record) -> None:
        """Send the summary, and close the run of W&B."""
        self._guard(lambda: self.run.summary.update(summary(record)))
        if error := record.error:
            self._guard(lambda: self.run.write_logs(redact.text(f"{error['type']}: {error['message']}")))
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
        """Call `act`, which uses W&B. If W&B fails, print a warning and send nothing more for this run."""
        if self.off:
            return
        try:
            act()
        except Exception as error:
            print(f"warning: W&B failed and is off for this run ({type(error).__name__}: {error})", file=sys.stderr)
            self.off = True
            # The process of W&B may have died. The next run of a sweep starts a new one.
            with contextlib.suppress(Exception, SystemExit):
                import wandb

                wandb.teardown()
