"""One training step on tensors that have a shape and no contents: what it would keep in memory, and compute.

The step is the real one: the model of transformers, the adapters of PEFT and of this project, autograd. So what is
counted for a method is what it keeps for its backward pass, not what a formula says. Layers are all alike: two models,
of one and of two layers, tell what each further layer adds.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..spec import shapes
from ..spec.run_config import RunConfig
from ..train import adapt, scratch
from ..train.placement import Placement, base_dtype

# What torch does not count itself. A product of (n, a, b) and (n, b, c) takes n a b c multiplications and additions.
FLOPS = {
    torch.ops.aten.baddbmm_: lambda _, x, y, **__: 2 * x[0] * x[1] * x[2] * y[2],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class Traced:
    """One micro-batch. Memory is that of one device, beside weights, gradients and the optimizer's state.

    Attributes:
        saved: Bytes kept from the forward pass for the backward pass.
        peak: Most bytes in use at a time.
        forward: FLOPs of the forward pass.
        backward: FLOPs of the backward pass.
    """

    saved: float
    peak: float
    forward: float
    backward: float

    def plus(self, times: float, other: Traced) -> Traced:
        """Each number of `self` and `times` that of `other`."""
        mine, more = dataclasses.astuple(self), dataclasses.astuple(other)
        return Traced(*(a + times * b for a, b in zip(mine, more, strict=True)))


@dataclass(frozen=True)
class Step:
    """A micro-batch without and with activation checkpointing.

    With it, a layer keeps its input alone, and computes the rest again when its turn in the backward pass comes: one
    layer at a time, when the tensors of the head are gone.
    """

    plain: Traced
    checkpointed: Traced


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that exist: each piece of memory once, from its making to its end."""

    def __init__(self, before: Iterator[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the signature is torch's
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, memory: torch.UntypedStorage) -> None:
        if memory._cdata in self.sizes:
            return
        self.sizes[memory._cdata] = memory.nbytes()
        self.now += memory.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(memory, self._end, memory._cdata)

    def _end(self, address: int) -> None:
        self.now -= self.sizes.pop(address)

    def ignore(self, tensor: Tensor) -> None:
        """Count this memory no longer."""
        address = tensor.untyped_storage()._cdata
        self.now -= self.sizes[address]
        self.sizes[address] = 0


class DeviceDropout(nn.Module):
    """Dropout as a GPU does it: the mask that is kept has a byte an entry, on a CPU it has the input's format."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, self.training)[0]


def adapted(config: RunConfig, shape: shapes.Shape, placement: Placement) -> nn.Module:
    """The model that would train, on the meta device."""
    with torch.device("meta"):
        network = scratch.llama(shape, 0, bos=0, eos=1, pad=2).to(base_dtype(config, placement))
        return adapt.adapt(network, config).model.train()


def step(config: RunConfig, shape: shapes.Shape, placement: Placement, rows: int, length: int) -> Step:
    """A step of `rows` x `length` tokens on a model of this shape."""

    def of(layers: int, vocabulary: int = shape.vocabulary) -> Traced:
        smaller = dataclasses.replace(shape, layers=layers, vocabulary=vocabulary)
        return _step(config, smaller, placement, rows, length)

    one, two = of(1), of(2)
    layer = two.plus(-1, one)
    plain = one.plus(shape.layers - 1, layer)
    inputs = rows * length * shape.hidden * placement.dtype.itemsize
    recomputed = inputs * (shape.layers - 1) + of(1, vocabulary=8).peak
    kept = shape.layers * (layer.saved - inputs)
    checkpointed = Traced(
        saved=plain.saved - kept,
        peak=max(plain.peak - kept, recomputed),
        forward=plain.forward,
        backward=plain.backward + shape.layers * layer.forward,
    )
    return Step(plain, checkpointed)


def _step(config: RunConfig, shape: shapes.Shape, placement: Placement, rows: int, length: int) -> Traced:
    network, gpu = adapted(config, shape, placement), placement.device != "cpu"
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_memory(network)
        if gpu:
            _device_dropout(network)
        ids = torch.zeros(rows, length, dtype=torch.long)
        live = Live(t for group in (network.parameters(), network.buffers()) for t in group)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: live.ignore(p.grad))  # type: ignore[arg-type]
        flops = FlopCounterMode(display=False, custom_mapping=FLOPS)
        with flops, live:
            # The Trainer's mixed precision on a GPU, and its copy of the outputs in float32.
            with torch.autocast("cpu", placement.dtype, enabled=gpu and placement.precision != "fp32"):
                out = network(input_ids=ids, labels=ids, use_cache=False)
            loss = out.loss
            if gpu:
                out.logits = out.logits.float()
            del out
            saved, forward = live.now, flops.get_total_flops()
            loss.backward()
    return Traced(saved, live.peak, forward, flops.get_total_flops() - forward)


def _give_memory(network: nn.Module) -> None:
    """Meta tensors by fake ones, which behave as those of a CPU do: their attention keeps what a GPU's does."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # shared weights stay shared
    for module in network.modules():
        stores: list[dict[str, Any]] = [module._parameters, module._buffers]
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    made[id(tensor)] = tensor, fake
                store[name] = made[id(tensor)][1]


def _device_dropout(network: nn.Module) -> None:
    for module in [*network.modules()]:
        for name, child in [*module.named_children()]:
            if type(child) is nn.Dropout:
                module._modules[name] = DeviceDropout(child.p)
