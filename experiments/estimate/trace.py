"""One training step on tensors that have a shape and no contents: the memory and the FLOPs that it would need.

The step runs real code: the model of transformers, the adapters of PEFT and of this project, and autograd. So the
memory of a method is counted, not taken from a formula. All layers of a model are alike: a model of one layer and a
model of two layers tell what each further layer adds.
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

# FLOPs of operations that torch does not count. A product of (n, a, b) and (n, b, c) takes n a b c multiplications and
# as many additions.
FLOPS = {
    torch.ops.aten.baddbmm_: lambda _, x, y, **__: 2 * x[0] * x[1] * x[2] * y[2],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class Demand:
    """What one micro-batch needs of one device. Weights, gradients and the optimizer's state are not counted.

    Attributes:
        saved: Bytes that the forward pass keeps for the backward pass.
        peak: The most bytes in use at any moment.
        forward: FLOPs of the forward pass.
        backward: FLOPs of the backward pass.
    """

    saved: float
    peak: float
    forward: float
    backward: float

    def plus(self, times: float, other: Demand) -> Demand:
        """`self` + `times` x `other`, number by number."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Demand(*(a + times * b for a, b in pairs))


@dataclass(frozen=True)
class Step:
    """A micro-batch without (`plain`) and with activation checkpointing.

    With activation checkpointing a layer keeps its input only. In the backward pass the layers compute their other
    tensors again, one layer at a time, after the tensors of the head were freed.
    """

    plain: Demand
    checkpointed: Demand


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, each piece of memory once, until it is freed.

    torch's own `MemTracker` does not fit: it puts a hook on the gradient of every parameter, which a frozen parameter
    refuses.

    Args:
        uncounted: Tensors that exist already, and whose memory is not counted.

    Attributes:
        now: Bytes in use.
        peak: The most bytes that were in use at any moment.
    """

    def __init__(self, uncounted: Iterator[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in uncounted}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the signature is torch's
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, memory: torch.UntypedStorage) -> None:
        if memory._cdata in self.sizes:
            return
        self.sizes[memory._cdata] = memory.nbytes()
        self.now += memory.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(memory, self._freed, memory._cdata)

    def _freed(self, address: int) -> None:
        self.now -= self.sizes.pop(address)

    def ignore(self, tensor: Tensor) -> None:
        """Stop counting the memory of `tensor`."""
        address = tensor.untyped_storage()._cdata
        self.now -= self.sizes[address]
        self.sizes[address] = 0


class DeviceDropout(nn.Module):
    """Dropout as on a GPU, where the mask has one byte per entry. On a CPU the mask has the input's number format."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, self.training)[0]


def adapted(config: RunConfig, shape: shapes.Shape, placement: Placement) -> nn.Module:
    """The model with its adapter, on the meta device."""
    with torch.device("meta"):
        network = scratch.llama(shape, 0, bos=0, eos=1, pad=2).to(base_dtype(config, placement))
        return adapt.adapt(network, config).model.train()


def step(config: RunConfig, shape: shapes.Shape, placement: Placement, rows: int, length: int) -> Step:
    """A step of `rows` x `length` tokens on a model of this shape."""

    def demand(layers: int, vocabulary: int = shape.vocabulary) -> Demand:
        smaller = dataclasses.replace(shape, layers=layers, vocabulary=vocabulary)
        return _step(config, smaller, placement, rows, length)

    one, two = demand(1), demand(2)
    layer = two.plus(-1, one)
    plain = one.plus(shape.layers - 1, layer)
    inputs = rows * length * shape.hidden * placement.dtype.itemsize
    recomputed = inputs * (shape.layers - 1) + demand(1, vocabulary=8).peak
    freed = shape.layers * (layer.saved - inputs)
    checkpointed = Demand(
        saved=plain.saved - freed,
        peak=max(plain.peak - freed, recomputed),
        forward=plain.forward,
        backward=plain.backward + shape.layers * layer.forward,
    )
    return Step(plain, checkpointed)


def _step(config: RunConfig, shape: shapes.Shape, placement: Placement, rows: int, length: int) -> Demand:
    network, gpu = adapted(config, shape, placement), placement.device != "cpu"
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_memory(network)
        if gpu:
            _device_dropout(network)
        ids = torch.zeros(rows, length, dtype=torch.long)
        memory = MemoryCounter(t for group in (network.parameters(), network.buffers()) for t in group)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: memory.ignore(p.grad))  # type: ignore[arg-type]
        flops = FlopCounterMode(display=False, custom_mapping=FLOPS)
        with flops, memory:
            # On a GPU the Trainer uses mixed precision and copies the outputs to float32.
            with torch.autocast("cpu", placement.dtype, enabled=gpu and placement.precision != "fp32"):
                out = network(input_ids=ids, labels=ids, use_cache=False)
            loss = out.loss
            if gpu:
                out.logits = out.logits.float()
            del out
            saved, forward = memory.now, flops.get_total_flops()
            loss.backward()
    return Demand(saved, memory.peak, forward, flops.get_total_flops() - forward)


def _give_memory(network: nn.Module) -> None:
    """Replace meta tensors by fake CPU tensors: attention keeps the same tensors for them as on a GPU."""
    fakes: dict[int, tuple[Tensor, Tensor]] = {}  # id of the meta tensor -> (meta, fake): shared weights stay shared
    for module in network.modules():
        stores: list[dict[str, Any]] = [module._parameters, module._buffers]
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in fakes:
                    fake: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    fakes[id(tensor)] = tensor, fake
                store[name] = fakes[id(tensor)][1]


def _device_dropout(network: nn.Module) -> None:
    for module in [*network.modules()]:
        for name, child in [*module.named_children()]:
            if type(child) is nn.Dropout:
                module._modules[name] = DeviceDropout(child.p)
