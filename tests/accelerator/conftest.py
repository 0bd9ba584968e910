"""The fixtures: the device of `device.py`, which is registered when pytest collects the tests, and runs on it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from experiments.spec.run_config import RunConfig

from . import device

REGISTRATION = device.install()


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The pretend accelerator, present for one test, also for accelerate and for the data loaders of torch."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", device.NAME)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", device.pinned)
    with device.switched_on() as acc:
        yield acc


@pytest.fixture
def on_accelerator(
    accelerator: torch.device, smoke: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    """A configuration at smoke scale for one GPU. The pretend accelerator takes the place of the GPU."""
    import transformers.training_args
    from accelerate import Accelerator
    from transformers import Trainer

    from experiments.spec import hardware
    from experiments.train.placement import Placement

    for name, value in (("_has_gpu", True), ("_gpus", 1), ("_has_bf16", True)):
        monkeypatch.setattr(hardware, name, lambda value=value: value)
    monkeypatch.setattr(Placement, "of", classmethod(lambda cls, h: cls(_device_of(h), h.precision)))
    # What transformers and accelerate ask torch.cuda about.
    monkeypatch.setattr(transformers.training_args, "is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr(
        "accelerate.accelerator.get_grad_scaler", lambda *args, **options: torch.amp.GradScaler(device.NAME, **options)
    )
    monkeypatch.setattr(Accelerator, "__init__", _as_on_cuda(Accelerator.__init__))
    for name in ("_save_rng_state", "_load_rng_state"):
        monkeypatch.setattr(Trainer, name, _with_random_state(getattr(Trainer, name)))
    return lambda *overrides: smoke("hardware.device=gpu", *overrides)


def _device_of(hardware: Any) -> str:
    return device.NAME if hardware.device == "gpu" else "cpu"


def _as_on_cuda(start: Callable[..., None]) -> Callable[..., None]:
    """The start of accelerate's Accelerator, which accepts fp16 on the devices that it knows only."""
    from accelerate import Accelerator

    def started(*args: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Accelerator, "device", torch.device("cuda"))
            start(*args, **options)

    return started


def _with_random_state(method: Callable[..., None]) -> Callable[..., None]:
    """The method of the Trainer, for which the random state of torch.cuda is that of the pretend accelerator."""

    def wrapped(*args: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            for name in ("get_rng_state", "set_rng_state"):
                patch.setattr(torch.cuda.random, name, getattr(torch.acc, name))  # type: ignore[attr-defined]
            method(*args)

    return wrapped
