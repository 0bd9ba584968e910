"""`run.py` in a process of its own, which starts quickly: a fork server has already imported the libraries."""

from __future__ import annotations

import json
import multiprocessing
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments.spec.run_config import RunConfig
from experiments.store.records import Store

# run.py sets this too. It must be set before torch is imported: on few cores, threads that spin slow each other down.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    ["transformers", "peft", "experiments.train.trainer", "experiments.store.wandb_mirror", "mora", "run"]
)

SMOKE = ("scale=smoke", "logger=none", "hardware=cpu", "hardware.threads=1")


class Ending(NamedTuple):
    """The exit code of a process (minus the number of the signal that killed it), and what the process printed."""

    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """The lines on stderr, without the progress bar."""
        return [line for line in self.err.splitlines() if line and not re.search(r"\d/\d+ \[", line)]


def launch(*arguments: str, log: Path, limit: float = 240, **preparation: Any) -> Ending:
    """Run `run.py` with these arguments to its end; `preparation` as for `begin`."""
    process = begin(*arguments, log=log, **preparation)
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"not finished within {limit:g} seconds")
    return printed(process.exitcode, log)


def printed(code: int, log: Path) -> Ending:
    return Ending(code, log.with_suffix(".out").read_text(), log.with_suffix(".err").read_text())


def begin(
    *arguments: str,
    log: Path,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> multiprocessing.Process:
    """Start `run.py` with these arguments.

    Args:
        arguments: The command line, without the name of the script.
        log: Where the output goes: stdout to this path with the suffix .out, stderr with .err.
        before: Called in the new process, to prepare a fault.
        environment: Variables of the new process, beside those of the tests.
    """
    process = server.Process(target=_main, args=(arguments, log, before, dict(environment or {})))
    process.start()
    return process


def _main(
    arguments: tuple[str, ...], log: Path, before: Callable[[], None] | None, environment: dict[str, str]
) -> None:
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["run.py", *arguments]
    os.environ.update(environment)
    if before:
        before()
    import run

    code = run.main()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(function: str, count: int, act: Callable[[], None], *, after: bool = False) -> None:
    """Call `act` right before the `count`-th call of module.function, or right after that call."""
    where, _, name = function.rpartition(".")
    place, calls = pkgutil.resolve_name(where), [0]
    original = getattr(place, name)

    def wrapper(*args, **kwargs):
        calls[0] += 1
        is_the_call = calls[0] == count
        if is_the_call and not after:
            act()
        result = original(*args, **kwargs)
        if is_the_call and after:
            act()
        return result

    setattr(place, name, wrapper)


def interrupt_at_step(step: int, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a cell in this process, and interrupt the run after `step`."""
    from experiments import runner
    from experiments.train import callbacks

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.ProgressBar, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runner.run(config)


def the_record(results: Path) -> dict:
    """The one record below `results`."""
    (path,) = (results / "runs").glob("*.json")
    return json.loads(path.read_text())


def outcome(results: Path) -> dict:
    """All that must be equal in two runs of a cell: metrics with the curve, and the bytes of the trained weights."""
    record = the_record(results)
    assert record["status"] == "finished", record["error"]
    model = Store(results).model(record["key"])
    weights = {p.name: p.read_bytes() for p in sorted(model.glob("*.safetensors"))}
    assert weights
    return {"metrics": record["metrics"], "weights": weights}


def half_written(results: Path) -> list[Path]:
    """The half-written files and folders below `results`."""
    return [
        p for p in results.rglob("*") if p.name == "incomplete" or p.name.endswith((".tmp", ".incomplete", ".removed"))
    ]
