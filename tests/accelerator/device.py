"""A pretend accelerator: the device "acc", whose tensors cannot meet the CPU's, on a machine without a GPU.

A tensor of "acc" is an ordinary tensor of torch, so `type`, autograd, optimizers and modules treat it as they treat a
tensor of a GPU. Its numbers lie in the CPU's memory, and the CPU computes with them. Each operation on it passes
through `_kernel`, which

* raises `MixedDevicesError` where a tensor of the CPU takes part, except a single number in an elementwise operation,
  which GPUs accept as well;
* draws random numbers from a generator of the device, not from the CPU's generator;
* notes each operation for which the CPU would wait for a GPU (`synchronisations`).

A GPU that is missing in this test is: its speed, its rounding, its streams. `torch.cuda` knows nothing of the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)

NAME = "acc"
ON_CPU, ON_DEVICE = 1, 12  # device types of DLPack: kDLCPU, and kDLExtDev, which torch reads as its "PrivateUse1"
# The operations whose result or shape the CPU needs, so that the CPU waits for the device.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount")
# What autocast of CUDA computes in the lower precision, and what it computes in float32 (of what models here use).
LOWER = ("mm", "bmm", "addmm", "baddbmm", "matmul", "linear", "scaled_dot_product_attention")
FLOAT32 = ("softmax.int", "log_softmax.int", "cross_entropy_loss", "nll_loss", "layer_norm", "rsqrt", "exp", "log")


class MixedDevicesError(RuntimeError):
    """A tensor of the CPU met a tensor of the device."""


class _State:
    """What the device knows of itself. There is one device in a process."""

    on = False
    generator = torch.Generator().manual_seed(0)
    synchronisations: list[str] | None = None


class _Module(_DummyBackendModule):
    """The module `torch.acc`. The device counts as present only within `switched_on`."""

    _initialized = True  # `torch.utils.checkpoint` keeps the random state of a device that has this

    def is_available(self) -> bool:
        return _State.on

    def device_count(self) -> int:
        return int(_State.on)

    def get_rng_state(self, device: Any = None) -> Tensor:
        return _State.generator.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        _State.generator.set_state(state)

    def manual_seed_all(self, seed: int) -> None:
        _State.generator.manual_seed(seed)

    manual_seed = manual_seed_all

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    @contextlib.contextmanager
    def device(self, index: int) -> Iterator[None]:
        yield


class _Hook(_DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return _State.on


@contextlib.contextmanager
def switched_on() -> Iterator[torch.device]:
    """Within this block the device counts as present, and its random numbers start with seed 0."""
    _State.on = True
    _State.generator.manual_seed(0)
    try:
        yield torch.device(NAME)
    finally:
        _State.on = False


@contextlib.contextmanager
def synchronisations() -> Iterator[list[str]]:
    """The operations within this block for which the CPU would wait for the device: each one's name and its caller."""
    outer, _State.synchronisations = _State.synchronisations, []
    try:
        yield _State.synchronisations
    finally:
        _State.synchronisations = outer


def _note(what: str) -> None:
    if _State.synchronisations is None:
        return
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "/torch/" not in f.filename]
    callers = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-3:]))
    _State.synchronisations.append(f"{what} ({callers})")


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _alias(tensor: Tensor, kind: int) -> Tensor:
    """A tensor of the other device in the memory of `tensor`. DLPack hands the memory over; its device is rewritten."""
    capsule = torch._C._to_dlpack(tensor.detach())
    place = _pointer(capsule, b"dltensor")
    assert place
    (ctypes.c_int32 * 2).from_address(place + ctypes.sizeof(ctypes.c_void_p))[:] = kind, 0
    alias: Tensor = torch._C._from_dlpack(capsule)
    torch._C._set_conj(alias, tensor.is_conj())  # DLPack hands over numbers only, not how torch reads the numbers
    torch._C._set_neg(alias, tensor.is_neg())
    return alias


def _on_cpu(tensor: Tensor) -> Tensor:
    # An empty tensor of DLPack could not be resized, and operations resize empty results.
    return _alias(tensor, ON_CPU) if tensor.numel() else torch.empty(tensor.shape, dtype=tensor.dtype)


def _is_ours(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An argument or a result of an operation, with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, change) for item in value)
    return value


def _check(op: Any, tensor: Tensor) -> None:
    """Refuse a tensor of the CPU, unless it is a single number in an elementwise operation."""
    if tensor.ndim or not (torch.Tag.pointwise in op.tags or "_foreach" in op._schema.name):
        raise MixedDevicesError(
            f"{op}: expected all tensors to be on the same device, but found {NAME}:0 and {tensor.device} "
            f"(shape {tuple(tensor.shape)})"
        )


def _waits(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the CPU needs the result, or needs to count the true entries of a mask."""
    indices = args[1] if name.startswith(("index", "_index")) and len(args) > 1 else ()
    masks = indices if isinstance(indices, list | tuple) else (indices,)
    return name in WAITING or any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in masks)


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    of_cpu = torch.get_rng_state()
    torch.set_rng_state(_State.generator.get_state())
    try:
        yield
    finally:
        _State.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(of_cpu)


def _kernel(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation on the device: the CPU computes it in the same memory."""
    name = op._schema.name.removeprefix("aten::")
    if name == "_fused_sdp_choice":
        return 0  # the plain composition; the fused kernels belong to other devices
    if _State.synchronisations is not None and _waits(name, args):
        _note(name)
    pairs: list[tuple[Tensor, Tensor]] = []  # each tensor of the device, and its alias on the CPU

    def lowered(tensor: Tensor) -> Tensor:
        if not _is_ours(tensor):
            _check(op, tensor)
            return tensor
        pairs.append((tensor, _on_cpu(tensor)))
        return pairs[-1][1]

    args = _mapped(args, lowered)
    kwargs = {key: _mapped(value, lowered) for key, value in kwargs.items() if key != "pin_memory"}
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    if name == "histc" and not args[0].is_floating_point():  # CUDA counts integers, the CPU counts floats only
        return _alias(op(args[0].float(), *args[1:], **kwargs).to(args[0].dtype), ON_DEVICE)
    randomness = _own_randomness() if torch.Tag.nondeterministic_seeded in op.tags else contextlib.nullcontext()
    with torch._C._AutoDispatchBelowAutograd(), randomness:
        result = op(*args, **kwargs)
    for tensor, host in pairs:  # an operation may have resized its result
        if host.numel() and not tensor.numel():
            tensor.data = _alias(host, ON_DEVICE)

    def lifted(host: Tensor) -> Tensor:
        for tensor, own in pairs:
            if own is host:
                return tensor
        return _alias(host, ON_DEVICE)

    if torch.is_inference_mode_enabled() and any(r.alias_info for r in op._schema.returns):
        # A view of a parameter shares the parameter's version, which a tensor of inference mode does not have.
        with torch.inference_mode(all(tensor.is_inference() for tensor, _ in pairs)):
            return _mapped(result, lifted)
    return _mapped(result, lifted)


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """`copy_`, the one way between the devices."""
    to_device, from_device = _is_ours(target), _is_ours(source)
    if from_device and not to_device:
        assert not non_blocking, "the CPU would read the copy before it is there"
        _note("copy to the CPU")
    if to_device and not from_device and not (non_blocking and getattr(source, "pinned", False)):
        _note("copy to the device")
    with torch._C._AutoDispatchBelowAutograd():
        (_on_cpu(target) if to_device else target).copy_(_on_cpu(source) if from_device else source)
    return target


def _set_storage(target: Tensor, storage: Any) -> Tensor:
    """`set_` with a whole storage of the device: `torch.save` looks at a storage in this way."""
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    target.data = _alias(torch.frombuffer(memory, dtype=target.dtype), ON_DEVICE)
    return target


def pinned(data: Any, device: Any = None) -> Any:
    """What a DataLoader's `pin_memory` does: copies in memory that a copy to the device need not wait for."""

    def one(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.clone()
            value.pinned = True  # type: ignore[attr-defined]
        return value

    return tree_map(one, data)


def _autocast(op: Any, dtype: Callable[[], torch.dtype]) -> Callable[..., Any]:
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        def cast(value: Any) -> Any:
            return value.to(dtype()) if _is_ours(value) and value.is_floating_point() else value

        with torch._C._ExcludeDispatchKeyGuard(below):
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


def install() -> list[Any]:
    """Register the device with torch, once in a process and before its first backward pass, which counts the devices.

    Returns:
        What has to stay in memory for the registration to last.
    """
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hook())
    anything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    anything.fallback(_kernel, "PrivateUse1")
    anything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    aten.impl("copy_", _copy, "PrivateUse1")
    aten.impl("set_.source_Storage", _set_storage, "PrivateUse1")
    for names, dtype in ((LOWER, lambda: torch.get_autocast_dtype(NAME)), (FLOAT32, lambda: torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            aten.impl(name, _autocast(op, dtype), "AutocastPrivateUse1")
    return [anything, aten]
