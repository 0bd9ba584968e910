"""The ranks of a run: the processes that train one model together, and how they wait for and talk to each other.

`train/spawn.py`, torchrun or srun starts the ranks; environment variables tell a process which rank it is. All ranks
do the same work on different examples. Only rank 0 writes the record, prints, and shows the progress bar. In a process
without other ranks, a function that talks to other ranks returns at once, and does not import torch.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# The other ranks wait while rank 0 waits for a cell that another run has claimed, or while one rank prepares the data.
TIMEOUT = datetime.timedelta(hours=6)
FAILURE = "failure"  # key of the first failure in the key-value store of the ranks


@dataclass(frozen=True)
class Rank:
    """One process among the ranks of a run."""

    index: int = 0  # its number among the ranks of all nodes
    count: int = 1  # the ranks of all nodes
    local: int = 0  # its number among the ranks of its node
    local_count: int = 1  # the ranks of its node

    def export(self) -> None:
        """Set the environment variables in which torch and accelerate look for the rank of a process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        os.environ |= {name: str(value) for name, value in zip(names, dataclasses.astuple(self), strict=True)}


def from_launcher() -> Rank | None:
    """The rank as which a launcher started this process; None if no launcher did."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        count = int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_RANK", env["RANK"]))
        return Rank(int(env["RANK"]), count, local, int(env.get("LOCAL_WORLD_SIZE", count)))
    # SLURM sets these variables for a batch script too, but a rank is only a process of a step, which srun starts.
    if "SLURM_PROCID" in env and "SLURM_NTASKS" in env and ("SLURM_STEP_ID" in env or "SLURM_JOB_ID" not in env):
        count = int(env.get("SLURM_STEP_NUM_TASKS", env["SLURM_NTASKS"]))
        if count == 1:  # srun started one process, as for a shell or for a job of an array: it may start ranks itself
            return None
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1)))
        return Rank(int(env["SLURM_PROCID"]), count, int(env.get("SLURM_LOCALID", 0)), count // nodes)
    return None


def current() -> Rank:
    """The rank of this process: rank 0 of 1 if no launcher started it."""
    return from_launcher() or Rank()


def first() -> bool:
    """Whether this process is rank 0, which prints and writes."""
    return current().index == 0


def join(device: str, store: Any = None) -> None:
    """Join the process group of all ranks, unless this process is in it: gloo for CPUs, and nccl as well for GPUs.

    Args:
        device: `cpu` or `gpu`.
        store: The key-value store where the ranks meet; None for the store of torchrun or of srun's first node.
    """
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if distributed.is_initialized():
        return
    rank = current()
    rank.export()
    if store is None:
        os.environ.setdefault("MASTER_ADDR", slurm_first_host())
        step = int(os.environ.get("SLURM_JOB_ID", 0)) + int(os.environ.get("SLURM_STEP_ID", 0))
        os.environ.setdefault("MASTER_PORT", str(20_000 + step % 20_000))
        store, *_ = next(iter(rendezvous("env://", rank.index, rank.count, timeout=TIMEOUT)))
    if device == "gpu":
        torch.cuda.set_device(rank.local)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "gpu" else "gloo",
        store=store,
        rank=rank.index,
        world_size=rank.count,
        timeout=TIMEOUT,
    )


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if _joined():
        from torch import distributed

        distributed.destroy_process_group()


def end(code: int) -> NoReturn:
    """End this process with an exit code.

    A rank ends without the shutdown of the interpreter. The threads of torch's process groups may still run, and now
    and then such a thread aborts a process that shuts down: a run whose work was done then counted as failed.
    """
    if current().count == 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody may read the output any more
            stream.flush()
    os._exit(code)


def slurm_first_host() -> str:
    """The first node in SLURM's list of nodes (`a1`, `a1,b2` or `a[01-04,7]`); localhost without such a list."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or "localhost"
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def broadcast(value: T) -> T:
    """The value of rank 0, on every rank."""
    if current().count == 1:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def any_rank(value: bool) -> bool:
    """Whether `value` is true on at least one rank."""
    return any(_all_gather(value))


def barrier() -> None:
    """Wait until every rank has called this function."""
    _all_gather(None)


@contextlib.contextmanager
def one_first() -> Iterator[None]:
    """Run a block on the first rank of each node, and then on the others, which find its files on the disk."""
    if current().local:
        barrier()
    yield
    if not current().local:
        barrier()


def divided(work: Sequence[T], do: Callable[[T], R]) -> list[R]:
    """``[do(item) for item in work]``: each rank does a share of the items, and every rank gets all results.

    One rank does an item as a single process would do it, so the results are the same to the bit.
    """
    rank = current()
    share = {i: do(work[i]) for i in range(rank.index, len(work), rank.count)}
    results = {i: result for part in _all_gather(share) for i, result in part.items()}
    return [results[i] for i in range(len(work))]


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """Every rank draws the random numbers of rank 0; afterwards each other rank has its own random state again."""
    if current().count == 1:
        yield
        return
    import torch

    cuda = torch.cuda.is_available()
    state, on_gpu = broadcast((torch.get_rng_state(), torch.cuda.get_rng_state() if cuda else None))
    with torch.random.fork_rng(enabled=not first()):
        torch.set_rng_state(state)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
        yield


def fail(own: dict[str, str]) -> dict[str, str]:
    """Tell the other ranks why this rank failed. Returns the first failure of any rank, which caused the later ones."""
    if not _joined():
        return own
    rank = current()
    if rank.count > 1:
        own = own | {"rank": str(rank.index)}
    try:
        return dict(json.loads(_store().compare_set(FAILURE, "", json.dumps(own))))
    except (RuntimeError, ValueError):  # the process that holds the store has ended
        return own


def failure() -> dict[str, str] | None:
    """The first failure of any rank; None if no rank has failed."""
    return failure_in(_store()) if _joined() else None


def failure_in(store: Any) -> dict[str, str] | None:
    """The first failure of any rank, as `store` holds it; None if it holds none."""
    try:
        return dict(json.loads(store.get(FAILURE))) if store.check([FAILURE]) else None
    except RuntimeError:
        return None


def _joined() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _store() -> Any:
    from torch.distributed import distributed_c10d

    store = distributed_c10d._get_default_store()
    while hasattr(store, "underlying_store"):  # the group prefixes its keys; `train/spawn.py` reads without a prefix
        store = store.underlying_store
    return store


def _all_gather(value: T) -> list[T]:
    if current().count == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * current().count
    distributed.all_gather_object(values, value)
    return values
