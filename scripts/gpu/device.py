"""The device of the GPU check: a CUDA GPU, or in a rehearsal the CPU in its place.

Both devices have the same attributes and methods, so that a rehearsal runs the code that runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from experiments.errors import ConfigError
from scripts.benchmarks import timing

L2_BYTES = 2**28  # larger than the L2 cache of any GPU


class Device(Protocol):
    """Where the GPU check computes.

    Attributes:
        name: The name of the device in torch, `cuda` or `cpu`.
        card: The name of the results file: the name of the GPU, or `rehearsal`.
        rehearsal: Whether the CPU stands in for a GPU. The sizes are then tiny, and the times mean nothing.
        settings: The arguments of run.py that choose the device.
        compiler: The backend of torch.compile.
    """

    name: str
    card: str
    rehearsal: bool
    settings: tuple[str, ...]
    compiler: str

    def seconds(self, call: Callable[[], object]) -> float:
        """The time of one call, in seconds."""
        ...

    def peak(self, call: Callable[[], object]) -> int:
        """The most memory that `call` has allocated at one moment, in bytes, over what was allocated before."""
        ...


class Cuda:
    """A CUDA GPU. Times are those of CUDA events, after the L2 cache was overwritten.

    Raises:
        ConfigError: torch finds no CUDA GPU.
    """

    name, rehearsal, compiler = "cuda", False, "inductor"
    settings: tuple[str, ...] = ("hardware=gpu",)

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("torch finds no CUDA GPU here; allowed without a GPU: --rehearse")
        self.card = torch.cuda.get_device_name()
        self._cache: Any = None

    def seconds(self, call: Callable[[], object]) -> float:
        """The time of one call, in seconds, between two CUDA events."""
        import torch

        if self._cache is None:
            self._cache = torch.empty(L2_BYTES, dtype=torch.int8, device="cuda")
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._cache.zero_()
        start.record()  # type: ignore[no-untyped-call]
        call()
        end.record()  # type: ignore[no-untyped-call]
        end.synchronize()  # type: ignore[no-untyped-call]
        return float(start.elapsed_time(end)) / 1000  # type: ignore[no-untyped-call]

    def peak(self, call: Callable[[], object]) -> int:
        """The peak of torch's CUDA allocator during `call`, in bytes."""
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class StandIn:
    """The CPU in place of a GPU, to rehearse the check without a GPU."""

    name, card, rehearsal, compiler = "cpu", "rehearsal", True, "aot_eager"
    settings: tuple[str, ...] = ("hardware=cpu", "hardware.threads=1")

    def seconds(self, call: Callable[[], object]) -> float:
        """The time of one call, in seconds."""
        return timing.seconds_of(call)

    def peak(self, call: Callable[[], object]) -> int:
        """The peak of torch's CPU allocator during `call`, in bytes."""
        from scripts.benchmarks.memory import peak_bytes  # imports torch

        return peak_bytes(call)
