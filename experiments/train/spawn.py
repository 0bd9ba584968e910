"""Start the ranks of a run on this machine, wait until all have ended, and leave no process behind.

The caller has composed and checked the configuration and claimed the cell. The ranks get both as they are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from .. import redact, tasks
from ..errors import ConfigError, StorageError, exit_code
from ..spec import methods, ranks, signals
from ..spec.run_config import RunConfig
from ..store.records import Record, Store

Execute = Callable[[RunConfig, Record, Store], Record]

GRACE = 10.0  # seconds that the other ranks have to end by themselves after one rank has failed
STOPPING = 60.0  # seconds that the ranks have to end after they got SIGTERM
TOLD = {kind.__name__: kind for kind in (ConfigError, StorageError)}  # errors of a rank that this process raises too
HUNG = 600.0  # seconds without a step and without a byte of a checkpoint; then ranks that got SIGTERM count as hung


def run(execute: Execute, config: RunConfig, record: Record, store: Store) -> Record:
    """Call `execute(config, record, store)` on `hardware.processes` ranks, and return the record that rank 0 wrote.

    Each rank is a new process, which imports `execute`. If any rank fails, the run has failed. The ranks get a SIGTERM
    when this process gets a signal that stops a run.

    Raises:
        ConfigError: A rank found that the configuration does not fit the model or the machine.
        StorageError: A rank could not write to the disk, and the record does not say so.
        KeyboardInterrupt: The run was interrupted; its record says so.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    count = config.hardware.ranks
    rendezvous = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    # A terminal or a scheduler sends a signal to the ranks as well. They must not see it: this process passes it on, as
    # SIGTERM. SIGXCPU is about the processor time of one process, which only that process sees. The resource tracker is
    # started first, because its start would unblock SIGINT again.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*signals.handled()} - {signal.SIGTERM, signal.SIGXCPU})
    try:
        arguments = (execute, config, record, store, rendezvous.port, os.getpid())
        context: Any = start_processes(work, arguments, count, join=False, start_method="spawn")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        while not context.join(grace_period=GRACE):
            pass
    except KeyboardInterrupt:
        print("waiting for the ranks to stop; a second signal kills them", file=sys.stderr)
        try:  # the ranks write a checkpoint, however long that takes
            stop(context.processes, HUNG, functools.partial(activity, store, record.key))
        finally:
            with signals.deferred():
                if (written := store.read(record.key)) and written.status != "finished":
                    written.status, written.error = "interrupted", None
                    store.write(written)
        raise
    except (ProcessExitedException, ProcessRaisedException) as ending:
        error = ranks.failure_in(rendezvous)
        if error and error["type"] in TOLD and "traceback" not in error:  # an error with a traceback is in the record
            raise TOLD[error["type"]](error["message"]) from None
        written = store.read(record.key)
        if written is None:
            raise
        killed_by = getattr(ending, "signal_name", None)
        ended = f"was ended by {killed_by}" if killed_by else "ended without an error message"
        how = f"rank {ending.error_index} {ended}"
        if written.status == "finished" and error is None:  # rank 0 writes this after the work of all ranks
            print(f"warning: {how} after the run had finished", file=sys.stderr)
            return written
        # When the system has killed one rank, the errors of the other ranks only follow from its death.
        if killed_by or error is None:
            error = {"type": type(ending).__name__, "message": how}
            print(f"failed: {how}", file=sys.stderr)
        written.status, written.error = "failed", error
        store.write(written)
    finally:
        stop(context.processes)
        store.progress(record.key).unlink(missing_ok=True)  # rank 0 may have been killed
    written = store.read(record.key)
    assert written
    return written


def activity(store: Store, key: str) -> Any:
    """What changes while the ranks of a run train or write a checkpoint: their step, and the sizes of the files."""
    progress = b""
    sizes: list[tuple[str, int]] = []
    with contextlib.suppress(OSError):  # files come and go
        progress = store.progress(key).read_bytes()
        sizes = sorted((str(path), path.stat().st_size) for path in store.checkpoints(key).rglob("*"))
    return progress, sizes


def stop(processes: list[Any], seconds: float = STOPPING, activity: Callable[[], Any] = lambda: None) -> None:
    """Send SIGTERM to the processes and wait. At an interruption, kill those that are left.

    Args:
        processes: The processes.
        seconds: Kill those that are left after so many seconds in which `activity()` has not changed.
        activity: A value that changes while the processes work.
    """
    try:
        for process in processes:
            if process.is_alive():
                process.terminate()
        seen, deadline = activity(), time.monotonic() + seconds
        while alive := [process for process in processes if process.is_alive()]:
            if (now := activity()) != seen:
                seen, deadline = now, time.monotonic() + seconds
            if (left := deadline - time.monotonic()) <= 0:
                print(
                    f"warning: {len(alive)} of the ranks did not end within {seconds:g} s and are killed",
                    file=sys.stderr,
                )
                break
            alive[0].join(min(left, 1.0))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


@redact.streams(best_effort=True)
def work(index: int, execute: Execute, config: RunConfig, record: Record, store: Store, port: int, parent: int) -> None:
    """The work of one rank. Exit codes: 0 done, 1 failed, 2 a setting is wrong, 130 interrupted."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    count = config.hardware.ranks
    die_with(parent)
    signal.signal(signal.SIGTERM, interrupt)
    ranks.Rank(index, count, index, count).export()
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        if config.task.module:  # the command line of the caller has named the files
            tasks.add(config.task.module)
        if config.method.module:
            methods.add(config.method.module)
        ranks.join(config.hardware.device, TCPStore("127.0.0.1", port, is_master=False))
        code = 0 if execute(config, record, store).status == "finished" else 1
    except KeyboardInterrupt:
        code = 130
    except (ConfigError, StorageError) as error:
        ranks.fail({"type": type(error).__name__, "message": str(error)})
        code = exit_code(error)
    if not code:
        ranks.leave()
    ranks.end(code)


def interrupt(signum: int, frame: Any) -> None:
    """Raise KeyboardInterrupt, once: a second SIGTERM must not interrupt the steps that end a rank."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def die_with(parent: int) -> None:
    """Let the system kill this process when its parent ends, whatever ends the parent."""
    from torch import multiprocessing

    multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]
    if os.getppid() != parent:
        sys.exit(1)
