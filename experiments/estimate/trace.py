"""One training step on tensors that have a shape and no contents: the memory and the FLOPs that it would need.

The step runs real code: the model of transformers, the adapters of PEFT and of this project, and autograd. So the
memory of a method is counted, not taken from a formula. Many blocks of a model are alike: the model with one block and
the model with two blocks tell what each further block of a kind adds.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..errors import ConfigError, reason_of
from ..spec import skeletons
from ..spec.run_config import RunConfig
from ..train import adapt
from ..train.placement import Placement, base_dtype

# FLOPs of operations that torch does not count. A product of (n, a, b) and (n, b, c) takes n a b c multiplications and
# as many additions.
FLOPS = {
    torch.ops.aten.addmm_: lambda _, x, y, **__: 2 * x[0] * x[1] * y[1],
    torch.ops.aten.baddbmm_: lambda _, x, y, **__: 2 * x[0] * x[1] * x[2] * y[2],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


class UntracedError(Exception):
    """A model cannot compute a step on tensors without contents. The message is one line that says why."""


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


UNKNOWN = Demand(math.nan, math.nan, math.nan, math.nan)


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


def adapted(config: RunConfig, placement: Placement) -> adapt.AdaptedModel:
    """The model with its adapter, on the meta device.

    Raises:
        ConfigError: transformers cannot build the model, or the method does not fit the model, or starts with values
            that it computes from those of the weights.
    """
    with torch.device("meta"):
        network = skeletons.built(config.model).to(base_dtype(config, placement))
        try:
            model = adapt.adapt(network, config)
        except ConfigError as error:
            reason = error.__cause__  # torch names the device that has no values; PEFT refuses layers in other words
            if not isinstance(reason, NotImplementedError) or "meta" not in str(reason).lower():
                raise
            raise ConfigError(
                f"dry_run: method={config.method.name} starts with values that it computes from the weights, and a dry "
                "run loads no weights; without dry_run the method may well run"
            ) from None
    model.model.train()
    return model


def step(network: nn.Module, placement: Placement, rows: int, length: int) -> Step:
    """A step of `rows` x `length` tokens of a model on the meta device, such as `adapted` gives.

    Raises:
        UntracedError: The model cannot compute on tensors without contents, or its blocks are not alike.
    """

    def demand(*chosen: int, small: bool = False) -> Demand:
        copied = with_blocks(network, chosen)
        if small:
            shrink_vocabulary(copied)
        return _step(copied, placement, rows, length)

    if skeletons.stacked_weights(network):
        raise UntracedError("how many tokens each expert gets depends on the contents")
    trains = [any(p.requires_grad for p in block.parameters()) for block in blocks(network)]
    if any(trains) and not all(trains):
        raise UntracedError("adapters are in some blocks only, and the estimate takes one block for all that are alike")
    alike = groups(blocks(network))
    try:
        inputs = rows * length * base_of(network).config.get_text_config().hidden_size * placement.dtype.itemsize
        with skeletons.silent():
            one = demand(0)
            layers = {first: demand(0, first).plus(-1, one) for first in alike}
            recomputed = max(demand(first, small=True).peak for first in alike)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UntracedError(f"a step cannot be computed without the values of weights ({reason_of(error)})") from error
    plain, extra, freed = one.plus(-1, layers[0]), 0.0, 0.0
    for first, count in alike.items():
        plain = plain.plus(count, layers[first])
        freed += count * (layers[first].saved - inputs)
        extra += count * layers[first].forward
    checkpointed = Demand(
        saved=plain.saved - freed,
        peak=max(plain.peak - freed, inputs * (sum(alike.values()) - 1) + recomputed),
        forward=plain.forward,
        backward=plain.backward + extra,
    )
    return Step(plain, checkpointed)


def base_of(network: nn.Module) -> Any:
    """The model of transformers inside a model with adapters."""
    return network.get_base_model() if isinstance(network, PeftModel) else network


def blocks(network: nn.Module) -> nn.ModuleList:
    """The blocks of a model, one above the other: its list of modules with the most parameters.

    Raises:
        UntracedError: The model has no list of modules.
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise UntracedError("the model has no list of blocks")
    return max(lists, key=lambda module: sum(p.numel() for p in module.parameters()))


def groups(layers: nn.ModuleList) -> dict[int, int]:
    """Blocks that are alike: the index of the first of them -> how many there are."""

    def signature(block: nn.Module) -> tuple[Any, ...]:
        return type(block), *((name, p.shape, p.requires_grad) for name, p in block.named_parameters())

    signatures = [signature(block) for block in layers]
    return {signatures.index(s): signatures.count(s) for s in signatures}


def with_blocks(network: nn.Module, chosen: tuple[int, ...]) -> nn.Module:
    """A copy of the model that has only the chosen blocks, one above the other."""
    layers = blocks(network)
    whole, layers._modules = layers._modules, {str(i): copy.deepcopy(layers[k]) for i, k in enumerate(chosen)}
    try:
        return copy.deepcopy(network)
    finally:
        layers._modules = whole


def shrink_vocabulary(network: nn.Module, size: int = 8) -> None:
    """Leave so many tokens, so that the embedding and the head hardly count."""
    base = base_of(network)
    for module in (base.get_input_embeddings(), base.get_output_embeddings()):
        if type(module) in (nn.Embedding, nn.Linear):
            module.weight = nn.Parameter(module.weight[:size].detach(), requires_grad=module.weight.requires_grad)
            module.padding_idx = None
    base.config.get_text_config().vocab_size = size


def _step(network: nn.Module, placement: Placement, rows: int, length: int) -> Demand:
    gpu = placement.device != "cpu"
    with FakeTensorMode(allow_non_fake_inputs=True):
        skeletons.give_memory(network)
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


def _device_dropout(network: nn.Module) -> None:
    for module in [*network.modules()]:
        for name, child in [*module.named_children()]:
            if type(child) is nn.Dropout:
                module._modules[name] = DeviceDropout(child.p)
