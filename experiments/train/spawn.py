"""Start the ranks of a run on this machine, see them to their end, and leave none behind.

The configuration has been composed and checked, and the cell claimed, before: the ranks get it as it is.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing import resource_tracker
from typing import Any

from ..errors import ConfigError
from ..spec import ranks
from ..spec.run_config import RunConfig
from ..store.records import Record, Store

GRACE = 10.0  # seconds that ranks have to end by themselves once one of them has failed
STOPPING = 60.0  # seconds that ranks have to end after another one has failed


def run(config: RunConfig, key: str, store: Store) -> Record:
    """`runner.execute` on `hardware.processes` ranks; the record is the one that rank 0 wrote.

    The failure of any rank is that of the run. SIGINT and SIGTERM are passed on as SIGTERM.

    Raises:
        ConfigError: A rank found that the configuration does not fit.
        KeyboardInterrupt: The run was interrupted; its record says so.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    count = config.hardware.ranks
    board = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    # A terminal sends SIGINT to the ranks too. It is for this process to pass it on, once. (The tracker is started
    # before: that would undo the block.)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        arguments = (config, key, count, board.port, os.getpid())
        started: Any = start_processes(work, arguments, count, join=False, start_method="spawn")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        while not started.join(grace_period=GRACE):
            pass
    except KeyboardInterrupt:
        stop(started.processes, None)  # they end with a checkpoint
        record = store.read(key)
        if record and record.status != "finished":
            record.status, record.error = "interrupted", None
            store.write(record)
        raise
    except (ProcessExitedException, ProcessRaisedException) as ended:
        told = ranks.failure_in(board)
        if told and told["type"] == "ConfigError":
            raise ConfigError(told["message"]) from None
        record = store.read(key)
        if record is None:
            raise
        # What the others say once a rank has been killed only follows from that.
        killed = getattr(ended, "signal_name", None)
        if killed or told is None:
            how = f"was ended by {killed}" if killed else "ended without a word"
            told = {"type": type(ended).__name__, "message": f"rank {ended.error_index} {how}"}
            print(f"failed: {told['message']}", file=sys.stderr)
        record.status, record.error = "failed", told
        store.write(record)
    finally:
        stop(started.processes)
    record = store.read(key)
    assert record
    return record


def stop(processes: list[Any], patience: float | None = STOPPING) -> None:
    """Ask processes to end, and end those that have not after `patience` seconds, or at an interrupt meanwhile."""
    try:
        for process in processes:
            if process.is_alive():
                process.terminate()
        deadline = time.monotonic() + (patience or 0.0)
        for process in processes:
            process.join(None if patience is None else max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def work(index: int, config: RunConfig, key: str, count: int, port: int, parent: int) -> None:
    """One rank. Exit codes: 0 done, 1 failed, 2 the configuration is wrong, 130 interrupted."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from .. import runner, tasks

    die_with(parent)
    signal.signal(signal.SIGTERM, interrupt)
    names = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in names.items()})
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    code = 0
    try:
        ranks.join(config.hardware.device, TCPStore("127.0.0.1", port, is_master=False))
        record = runner.execute(config, tasks.of(config), key, Store(config.paths.results))
        code = 0 if record.status == "finished" else 1
    except KeyboardInterrupt:
        code = 130
    except ConfigError as error:
        ranks.fail({"type": "ConfigError", "message": str(error)})
        code = 2
    if code:
        sys.exit(code)
    ranks.leave()


def interrupt(signum: int, frame: Any) -> None:
    """Once: what ends a rank must not be interrupted itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def die_with(parent: int) -> None:
    """End this process when its parent does, however that happens."""
    from torch import multiprocessing

    multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]
    if os.getppid() != parent:
        sys.exit(1)
