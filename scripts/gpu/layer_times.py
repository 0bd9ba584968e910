"""One linear layer in bf16, forward and backward: what an adapter adds to the frozen layer, against what LoRA adds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.errors import reason_of
from mora import kernels
from scripts.benchmarks import linear, timing

from .device import Device
from .parts import Emit, Row

TOKENS = 4096
BF16 = torch.bfloat16
TRITON = "sharing (triton)"
Call = Callable[[], None]


@dataclass(frozen=True)
class LayerCase:
    """The settings of one comparison.

    Attributes:
        r: The rank of the LoRA with the same budget of parameters.
        adapter: The number format of the adapter. With `float32` the layer runs under autocast, as in the Trainer.
        mode: `eager` or `compiled`.
    """

    r: int
    adapter: str
    mode: str


CASES = (
    LayerCase(8, "float32", "eager"),
    LayerCase(128, "float32", "eager"),
    LayerCase(8, "bfloat16", "eager"),
    LayerCase(128, "bfloat16", "eager"),
    LayerCase(8, "float32", "compiled"),
)


def measure(device: Device, emit: Emit, results: Path, shape: tuple[int, int]) -> None:
    """A row for each case and method, and for sharing with Triton's kernels.

    Unsloth comes last, because its import changes other libraries.
    """
    k, d = (48, 80) if device.rehearsal else shape
    tokens, budget = (16, (0.0, (1, 1))) if device.rehearsal else (TOKENS, (2.0, (10, 200)))
    weight = nn.Parameter(torch.randn(d, k, device=device.name, dtype=BF16) / k**0.5, requires_grad=False)
    x = torch.randn(1, tokens, k, device=device.name, dtype=BF16, requires_grad=True)
    gradient = torch.randn(1, tokens, d, device=device.name, dtype=BF16)
    for case in CASES:
        about = {"in": k, "out": d, "tokens": tokens, "r": case.r, "adapter": case.adapter, "mode": case.mode}
        calls = {}
        for method, layer in layers(weight, case, device):
            trained = [p for p in layer.parameters() if p.requires_grad]
            call = step(layer, trained, x, gradient, case.adapter == "float32")
            if (row := attempt(method, call)) is None:
                calls[method] = call
            else:
                emit(about | row)
        if case.mode == "eager" and "sharing" in calls:
            if importlib.util.find_spec("triton") is None:
                emit(about | {"method": TRITON, "skipped": "triton is not installed"})
            elif (row := attempt(TRITON, triton := with_triton(calls["sharing"]))) is None:
                calls[TRITON] = triton
            else:
                emit(about | row)
        for row in compare(calls, device, *budget):
            emit(about | row)
    about = {"in": k, "out": d, "tokens": tokens, "r": 8, "adapter": "bfloat16", "mode": "eager"}
    for row in unsloth(weight, x, gradient, device, *budget):
        emit(about | row)


def layers(weight: nn.Parameter, case: LayerCase, device: Device) -> Iterator[tuple[str, Any]]:
    """The frozen layer, and the layer with each adapter."""
    torch.compiler.reset()
    configs = linear.configs(case.r)
    for method in ("frozen", "lora", *linear.OPERATORS):
        layer: Any = linear.adapted(weight, configs.get(method))  # PEFT makes the adapter in float32
        if case.adapter == "bfloat16":
            layer = layer.to(BF16)
        yield method, torch.compile(layer, backend=device.compiler) if case.mode == "compiled" else layer


def step(
    forward: Callable[[Tensor], Tensor], trained: Sequence[Tensor], x: Tensor, gradient: Tensor, autocast: bool
) -> Call:
    """Forward and backward pass, with the gradients of the input and of `trained`."""

    def call() -> None:
        with torch.autocast(x.device.type, BF16, enabled=autocast):
            y = forward(x)
        y.backward(gradient)
        for tensor in (x, *trained):
            tensor.grad = None

    return call


def with_triton(call: Call) -> Call:
    """The call, computed with the kernels of `mora.triton_kernels` where they apply."""

    def switched() -> None:
        kernels.use_triton()
        try:
            call()
        finally:
            kernels.use_triton(False)

    return switched


def attempt(method: str, call: Call) -> Row | None:
    """Call once, which compiles what is to be compiled. None, or a row that says why the call failed."""
    try:
        call()
    except Exception as error:
        return {"method": method, "error": reason_of(error)}
    return None


def compare(calls: dict[str, Call], device: Device, seconds: float, rounds: tuple[int, int]) -> list[Row]:
    """A row for each call that works, with its time against the frozen layer's, and against LoRA's overhead."""
    samples = timing.alternate(calls, seconds, rounds, device.seconds)
    rows = []
    for method in samples:
        row: Row = {"method": method, "time": timing.summary(samples[method])}
        if "frozen" in samples and method != "frozen":
            row["against_frozen"] = timing.ratio(samples, method, "frozen")
            if "lora" in samples:
                row["against_lora"] = timing.ratio(samples, method, "lora", less="frozen")
        rows.append(row)
    return rows


def unsloth(
    weight: nn.Parameter, x: Tensor, gradient: Tensor, device: Device, seconds: float, rounds: tuple[int, int]
) -> list[Row]:
    """Unsloth's LoRA at rank 8 with an adapter in bf16, where Unsloth is installed, beside the frozen layer."""
    method = "lora (unsloth)"
    if importlib.util.find_spec("unsloth") is None:
        return [{"method": method, "skipped": "unsloth is not installed"}]
    try:
        from unsloth.kernels.fast_lora import LoRA_W

        sizes = ((8, x.shape[-1]), (len(weight), 8))
        A, B = (torch.randn(size, device=x.device, dtype=BF16).requires_grad_() for size in sizes)
        call = step(lambda x: LoRA_W.apply(x, weight, None, A, B, 1.0), (A, B), x, gradient, False)
        call()
    except Exception as error:
        return [{"method": method, "error": reason_of(error)}]
    frozen = step(linear.adapted(weight, None), (), x, gradient, False)
    return compare({"frozen": frozen, method: call}, device, seconds, rounds)
