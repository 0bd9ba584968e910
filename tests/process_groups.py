"""Process groups over gloo: one rank in the process of a test, or two in processes of their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed

from .processes import server


@contextmanager
def one_rank() -> Iterator[None]:
    """This process is the only rank of a group."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def on_two_ranks(check: Callable[[], None], folder: Path) -> None:
    """Call `check` in two processes, which are the ranks of a group and meet in `folder`. Both must succeed."""
    processes = [server.Process(target=_on_rank, args=(check, rank, folder / "store")) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def _on_rank(check: Callable[[], None], rank: int, store: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=distributed.FileStore(str(store), 2), rank=rank, world_size=2)
    check()
    distributed.barrier()
    distributed.destroy_process_group()
