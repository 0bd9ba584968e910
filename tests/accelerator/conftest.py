"""The fixture `accelerator`: the device of `device.py`, which is registered when pytest collects the tests."""

from collections.abc import Iterator

import pytest
import torch

from . import device

REGISTRATION = device.install()


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The pretend accelerator, present for one test, also for accelerate and for the data loaders of torch."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", device.NAME)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", device.pinned)
    with device.switched_on() as acc:
        yield acc
