"""The pretend accelerator: what it refuses, that it computes what the CPU computes, and what it counts."""

import pytest
import torch

from .device import MixedDevicesError, pinned, switched_on, synchronisations

OTHER = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "meet",
    [
        lambda x: x + OTHER,
        lambda x: x @ OTHER.T,
        lambda x: x.addmm_(torch.eye(2), x.clone()),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x[OTHER > 2],
        lambda x: x.index_add(0, torch.tensor([0, 1]), x),
        lambda x: torch.cat([x, OTHER]),
        lambda x: torch.where(OTHER > 2, x, 0.0),
        lambda x: torch.nn.functional.embedding(torch.tensor([0, 1]), x),
        lambda x: torch._foreach_add([x], [OTHER]),
        lambda x: x @ torch.tensor(2.0).expand(3, 3),
    ],
)
def test_a_tensor_of_the_cpu_is_refused(accelerator, meet):
    with pytest.raises(RuntimeError, match=r"[oi]n the same device|Bad in-place call"):
        meet(OTHER.to(accelerator))


def test_the_refusal_names_the_operation_and_the_shape(accelerator):
    with pytest.raises(MixedDevicesError, match=r"aten\.cat\S*: .* acc:0 and cpu \(shape \(2, 3\)\)"):
        torch.cat([OTHER.to(accelerator), OTHER])


def test_a_number_and_a_copy_are_allowed(accelerator):
    x = torch.ones(2, 3, device=accelerator)
    assert torch.equal((x * 2 + torch.tensor(1.0)).cpu(), torch.full((2, 3), 3.0))
    x.copy_(OTHER)
    assert torch.equal(x.to("cpu"), OTHER)


def test_its_tensors_are_ordinary_tensors(accelerator):
    module = torch.nn.Linear(3, 2).to(accelerator)
    assert {type(p) for p in module.parameters()} == {torch.nn.Parameter}
    assert {p.device for p in module.parameters()} == {torch.device("acc:0")}
    x = torch.zeros(4, 3, device=accelerator)
    x[:, 1].add_(1.0)  # a view writes to the memory of its base
    assert torch.equal(x.cpu(), torch.tensor([0.0, 1.0, 0.0]).expand(4, 3))
    module(x).sum().backward()
    assert torch.equal(module.weight.grad.cpu(), torch.tensor([0.0, 4.0, 0.0]).expand(2, 3))


def test_its_complex_numbers_are_those_of_the_cpu(accelerator):
    x = torch.randn(4, 8)
    conjugated, negated = torch.fft.ifft(x), torch.fft.fft(x).conj().imag  # views that only say how numbers are read
    assert conjugated.is_conj()
    assert negated.is_neg()
    assert torch.equal((torch.fft.ifft(x.to(accelerator)) * 2).cpu(), conjugated * 2)
    assert torch.equal((torch.fft.fft(x.to(accelerator)).conj().imag * 2).cpu(), negated * 2)


def test_its_random_numbers_are_its_own(accelerator):
    torch.manual_seed(5)
    of_cpu = torch.get_rng_state()
    first = torch.rand(3, device=accelerator)
    assert torch.equal(torch.get_rng_state(), of_cpu)
    with torch.random.fork_rng():
        inside = torch.rand(3, device=accelerator)
    assert torch.equal(torch.rand(3, device=accelerator).cpu(), inside.cpu())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3, device=accelerator).cpu(), first.cpu())


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool((x > 1).any()), "_local_scalar_dense"),
        (lambda x: x.cpu(), "copy to the CPU"),
        (lambda x: x[x > 1], "index"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x.copy_(OTHER), "copy to the device"),
        (lambda x: x.copy_(OTHER, non_blocking=True), "copy to the device"),  # not from pinned memory
    ],
)
def test_it_counts_what_the_cpu_would_wait_for(accelerator, wait, name):
    x = OTHER.to(accelerator)
    with synchronisations() as waits:
        wait(x)
    assert waits
    assert waits[-1].startswith(name)
    assert "test_device.py" in waits[-1]


def test_it_counts_nothing_else(accelerator):
    x, source = OTHER.to(accelerator), pinned({"x": OTHER})["x"]
    with synchronisations() as waits:
        x.copy_(source, non_blocking=True)
        (torch.where(x > 1, x, 0.0) @ x.T).softmax(-1)[torch.zeros(2, dtype=torch.long, device=accelerator)].sum()
    assert waits == []


def test_it_is_present_only_where_a_test_asks_for_it():
    assert not torch.accelerator.is_available()
    assert torch.acc.device_count() == 0
    with switched_on():
        assert torch.accelerator.is_available()
    assert not torch.accelerator.is_available()
