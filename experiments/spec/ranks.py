"""The ranks of a run: the processes that train one model together, and the few things they do in step.

`launch.py`, torchrun or srun starts them and says in the environment which rank a process is. All ranks do the same
work on different examples; rank 0 alone writes the record, prints, and shows the bar. In a process that is alone, all
of this is nothing, and torch is not imported for it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Ranks wait for one another while rank 0 waits for a cell that another run holds, or a node prepares its data.
PATIENCE = datetime.timedelta(hours=6)
FAILURE = "failure"


@dataclass(frozen=True)
class Rank:
    """Which process of how many, over all nodes and on this one."""

    index: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1


def given() -> Rank | None:
    """The rank that this process was started as; None where it was started alone."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        count = int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_RANK", env["RANK"]))
        return Rank(int(env["RANK"]), count, local, int(env.get("LOCAL_WORLD_SIZE", count)))
    # A batch script has these too, but only what srun starts is a step of the job.
    if "SLURM_PROCID" in env and "SLURM_NTASKS" in env and ("SLURM_STEP_ID" in env or "SLURM_JOB_ID" not in env):
        count = int(env.get("SLURM_STEP_NUM_TASKS", env["SLURM_NTASKS"]))
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1)))
        return Rank(int(env["SLURM_PROCID"]), count, int(env.get("SLURM_LOCALID", 0)), count // nodes)
    return None


def current() -> Rank:
    """The rank of this process; 0 of 1 where it is alone."""
    return given() or Rank()


def first() -> bool:
    """Whether this process is the one that prints and writes."""
    return current().index == 0


def join(device: str, store: Any = None) -> None:
    """Make the group of the given ranks, unless it is there: gloo between CPUs, nccl beside it between GPUs.

    Args:
        device: cpu or gpu.
        store: The key-value store that the ranks meet at; None: that of torchrun or of srun's first node.
    """
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if distributed.is_initialized():
        return
    rank = current()
    # What torch and accelerate read.
    names = {
        "RANK": rank.index,
        "WORLD_SIZE": rank.count,
        "LOCAL_RANK": rank.local,
        "LOCAL_WORLD_SIZE": rank.local_count,
    }
    os.environ.update({name: str(value) for name, value in names.items()})
    if store is None:
        os.environ.setdefault("MASTER_ADDR", slurm_first_host())
        step = int(os.environ.get("SLURM_JOB_ID", 0)) + int(os.environ.get("SLURM_STEP_ID", 0))
        os.environ.setdefault("MASTER_PORT", str(20_000 + step % 20_000))
        store, *_ = next(iter(rendezvous("env://", rank.index, rank.count, timeout=PATIENCE)))
    if device == "gpu":
        torch.cuda.set_device(rank.local)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "gpu" else "gloo",
        store=store,
        rank=rank.index,
        world_size=rank.count,
        timeout=PATIENCE,
    )


def leave() -> None:
    """Take the group apart, where there is one."""
    if _joined():
        from torch import distributed

        distributed.destroy_process_group()


def slurm_first_host() -> str:
    """The first node of a SLURM step, whose list may be `a1`, `a1,b2` or `a[01-04,7]`; localhost without one."""
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or "localhost"
    found = re.match(r"([^,\[]+)(?:\[(\d+))?", listed)
    return "".join(part or "" for part in found.groups()) if found else listed


def agree(value: T) -> T:
    """Rank 0's value, on every rank."""
    if current().count == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def agree_on_any(value: bool) -> bool:
    """Whether it is true on any rank."""
    return any(_gather(value))


def barrier() -> None:
    """Wait until every rank is here."""
    _gather(None)


@contextlib.contextmanager
def one_first() -> Iterator[None]:
    """The first rank of each node goes through alone, the others after it: they find what it has put on the disk."""
    if current().local:
        barrier()
    yield
    if not current().local:
        barrier()


def divided(work: Sequence[T], do: Callable[[T], R]) -> list[R]:
    """``[do(item) for item in work]``, each rank doing its share of the items; every rank gets all results.

    An item is done by one rank as a single process would do it, so that the results are the same to the bit.
    """
    rank = current()
    mine = {i: do(work[i]) for i in range(rank.index, len(work), rank.count)}
    done = {i: result for share in _gather(mine) for i, result in share.items()}
    return [done[i] for i in range(len(work))]


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """Every rank draws what rank 0 draws; afterwards the others go on from where they were."""
    if current().count == 1:
        yield
        return
    import torch

    cuda = torch.cuda.is_available()
    state, on_gpu = agree((torch.get_rng_state(), torch.cuda.get_rng_state() if cuda else None))
    with torch.random.fork_rng(enabled=not first()):
        torch.set_rng_state(state)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
        yield


def fail(own: dict[str, str]) -> dict[str, str]:
    """Tell the others why this rank failed, and hear which failure came first: the later ones follow from it."""
    if not _joined():
        return own
    rank = current()
    if rank.count > 1:
        own = own | {"rank": str(rank.index)}
    try:
        return dict(json.loads(_store().compare_set(FAILURE, "", json.dumps(own))))
    except (RuntimeError, ValueError):  # whoever kept the store is gone
        return own


def failure() -> dict[str, str] | None:
    """The first failure of any rank, if there was one."""
    return failure_in(_store()) if _joined() else None


def failure_in(store: Any) -> dict[str, str] | None:
    """The failure that a store holds."""
    try:
        return dict(json.loads(store.get(FAILURE))) if store.check([FAILURE]) else None
    except RuntimeError:
        return None


def _joined() -> bool:
    import sys

    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _store() -> Any:
    from torch.distributed import distributed_c10d

    store = distributed_c10d._get_default_store()
    while hasattr(store, "underlying_store"):  # without the prefix of the group: `launch.py` looks for it too
        store = store.underlying_store
    return store


def _gather(value: T) -> list[T]:
    if current().count == 1:
        return [value]
    from torch import distributed

    box: list[Any] = [None] * current().count
    distributed.all_gather_object(box, value)
    return box
