"""The device of the tests that are marked gpu: a CUDA GPU, or the CPU in a rehearsal of scripts/gpu_check.py."""

import os

import pytest
import torch

from scripts.gpu.marked_tests import DEVICE


@pytest.fixture(scope="session")
def device() -> str:
    """The name of the device in torch."""
    if os.environ.get(DEVICE) == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA GPU here")
    return "cuda"
