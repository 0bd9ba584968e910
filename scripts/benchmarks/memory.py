"""What an adapter keeps in memory: bytes saved for the backward pass, and the peak of a forward and backward pass.

Both are counts, not measurements: they are the same at every run. The peak is that of torch's CPU allocator, from the
memory profile that torch records, over what was allocated before.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from . import linear

SHAPES = ((4096, 4096), (2048, 5504), (5504, 2048))


def bytes_saved(layer: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd holds on to after a forward pass, beside parameters."""
    sizes: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        for dense in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            storage = dense.untyped_storage()
            if storage.data_ptr() not in parameters:
                sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)
    del output
    return sum(sizes.values())


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that `call`, which frees what it allocates, has allocated at one moment."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    with tempfile.TemporaryDirectory(prefix="mora-profile-") as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    now = peak = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        now += int(event["args"]["Bytes"])
        peak = max(peak, now)
    return peak


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each shape, rank and adapter."""
    for k, d in SHAPES:
        weight = nn.Parameter(torch.randn(d, k) / k**0.5, requires_grad=False)
        tokens = 64 if quick else linear.TOKENS
        x, gradient = torch.randn(tokens, k, requires_grad=True), torch.randn(tokens, d)
        for r in linear.RANKS:
            lora, configs = 0, linear.configs(r)
            for name in ("frozen", *configs):
                layer = linear.adapted(weight, configs.get(name))
                saved = bytes_saved(layer, x)
                row: dict[str, Any] = {"in": k, "out": d, "r": r, "method": name, "saved": saved}
                row["peak"] = peak_bytes(linear.step(layer, x, gradient))
                lora = saved if name == "lora" else lora
                if name != "frozen":
                    row["against_lora"] = {"value": round(saved / lora, 4)}
                yield row
