"""Each part of the path runs on a device that is not the CPU, with the CPU's numbers; a planted fault is caught."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from .parts import MIXED, PARTS, plant

CPU = torch.device("cpu")
HALF = {"autocast": 2e-2}  # bfloat16 has 8 bits: two devices may round to neighbouring numbers


def assert_same(actual, expected, tolerance):
    for own, other in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        own = own.cpu() if isinstance(own, torch.Tensor) else own
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=PARTS)
def part(request):
    return request.param


def test_a_part_gives_the_numbers_of_the_cpu(part, accelerator, tmp_path):
    run = PARTS[part].run
    (tmp_path / "cpu").mkdir()
    expected = run(CPU, tmp_path / "cpu")
    assert_same(run(accelerator, tmp_path), expected, HALF.get(part, 1e-4))


def test_a_tensor_planted_on_the_cpu_is_caught(part, accelerator, tmp_path, monkeypatch):
    run, fault = PARTS[part]
    plant(fault, monkeypatch)
    run(CPU, tmp_path)  # the CPU does not see the fault
    with pytest.raises(RuntimeError, match=MIXED):
        run(accelerator, tmp_path)
