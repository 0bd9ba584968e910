"""The Triton kernels against the plain composition, in Triton's interpreter on the CPU: `make triton` runs these tests.

Triton decides at its import whether it interprets, so these tests need a process that was started for them.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from mora import MoraConfig, MoraLinear, fused, grouped, kernels, operators

from ..conftest import ROOT

SHAPES = [(6, 6, 3), (70, 150, 16), (150, 70, 17), (130, 40, 33), (129, 257, 128), (5, 40, 7)]  # k, d, q
LEADING = [(3, 7), (1,), (2, 0)]
VARIANTS = {
    "truncation": ("truncation", {}),
    "strided": ("sharing", {}),
    "zeros": ("sharing", {"wrap": False}),
    "contiguous": ("sharing", {"in_groups": "contiguous", "out_groups": "contiguous"}),
}
GROUPINGS = [
    grouped.truncated(150, 130),
    grouped.strided(150, 16, True),
    grouped.strided(150, 130, True),
    grouped.contiguous(150, 16),
    grouped.contiguous(16, 7),
]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the extra `triton`")
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")


@pytest.fixture
def calls(monkeypatch):
    """The steps that ran on Triton, which is switched on."""
    kernels.use_triton()
    steps = []
    for name in ("sum_groups", "add_spread_"):
        step = getattr(kernels._triton, name)
        monkeypatch.setattr(kernels._triton, name, lambda *a, n=name, s=step: steps.append(n) or s(*a))
    yield steps
    kernels.use_triton(False)


def test_without_triton_the_switch_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "mora.triton_kernels", raising=False)
    with pytest.raises(ImportError, match="triton"):
        kernels.use_triton()
    assert kernels._triton is None


@needs_triton
@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("grouping", GROUPINGS, ids=str)
def test_a_step_is_rounded_once(grouping, dtype, calls):
    x, y = torch.randn(9, grouping.size).to(dtype), torch.randn(9, grouping.r_hat).to(dtype)
    expected = grouping.sum(x.double()).to(dtype), (x.double() + grouping.spread(y.double())).to(dtype)
    actual = kernels.sum_groups(grouping, x, dtype), kernels.add_spread_(grouping, x.clone(), y)
    assert calls == ["sum_groups", "add_spread_"]
    for own, exact in zip(actual, expected, strict=True):  # the sum itself is in float32
        torch.testing.assert_close(own, exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


@needs_triton
@interpreted
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_layer_and_its_gradients_equal_the_plain_composition(variant, shape, leading, calls):
    (name, options), (k, d, q) = VARIANTS[variant], shape
    operator = operators.build(name, k, d, q, **options)
    weight, gradient = torch.randn(d, k), torch.randn(*leading, d)
    x, M = torch.randn(*leading, k).requires_grad_(), torch.randn(q, q).requires_grad_()
    result = fused.linear(x, weight, None, M, operator)
    expected = nn.functional.linear(x.double(), weight.double()) + operator.apply(x.double(), M.double())
    added = fused.add_update(nn.functional.linear(x, weight), x, M, operator)
    for y in (result, added):
        torch.testing.assert_close(y, expected.float(), rtol=1e-4, atol=1e-3)
        for own, exact in zip(
            torch.autograd.grad(y, (x, M), gradient, retain_graph=True),
            torch.autograd.grad(expected, (x, M), gradient.double(), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(own, exact, rtol=1e-4, atol=1e-3)
    assert (not calls) == (gradient.numel() == 0)


@needs_triton
@interpreted
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_in_bf16_is_as_close_to_float64_as_without_triton(adapter, calls):
    base = nn.Linear(150, 70, dtype=torch.bfloat16).requires_grad_(False)
    layer = MoraLinear(base, "default", MoraConfig(r=4, operator="sharing", init_weights=False)).to(torch.bfloat16)
    M = layer.mora_M["default"]
    M.data = M.data.to(adapter)
    inputs, gradient = torch.randn(33, 150).bfloat16(), torch.randn(33, 70).bfloat16()

    def results(layer, dtype):
        x = inputs.to(dtype).requires_grad_()
        y = layer(x)
        return [y, *torch.autograd.grad(y, (x, layer.mora_M["default"]), gradient.to(dtype))]

    own = results(layer, torch.bfloat16)
    assert calls.count("sum_groups") == 2
    assert calls.count("add_spread_") in (1, 2)  # fused.linear adds in both passes, add_update in the forward pass
    kernels.use_triton(False)
    plain, exact = results(layer, torch.bfloat16), results(layer.double(), torch.float64)
    for o, p, e in zip(own, plain, exact, strict=True):
        assert o.dtype == p.dtype
        error, usual = ((t.double() - e).norm() / e.norm() for t in (o, p))
        assert error <= 2.2 * usual + 1e-6  # the interpreter rounds to bf16 towards zero, which doubles the error


@needs_triton
@interpreted
def test_what_a_kernel_cannot_compute_stays_on_torch(calls):
    for grouping in (grouped.strided(3, 16, True), grouped.strided(8, 8, True)):
        kernels.sum_groups(grouping, torch.randn(4, grouping.size), torch.float32)
    kernels.sum_groups(GROUPINGS[1], torch.randn(4, 150, dtype=torch.float64), torch.float64)
    assert not calls


@needs_triton
@pytest.mark.timeout(600)
def test_the_kernels_compile_for_a_gpu():
    """Triton compiles for a GPU on a machine without one: compute capability 8.0, one kernel for each grouping."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = "from tests.mora import test_triton_kernels as tests; tests.compile_all()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cubin"] * 4 * len(GROUPINGS)


def compile_all():
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mora import triton_kernels

    for grouping in GROUPINGS:
        for kernel in (triton_kernels.sum_kernel, triton_kernels.add_kernel):
            for pointer in ("*fp32", "*bf16"):
                names = kernel.arg_names
                signature = dict.fromkeys(names[:2], pointer) | dict.fromkeys(names[2:5], "i32")
                signature |= dict.fromkeys(names[5:], "constexpr")
                constants = (triton_kernels._segments(grouping), triton_kernels.TOKENS, triton_kernels.COLUMNS)
                source = ASTSource(kernel, signature, dict(zip(names[5:], constants, strict=True)))
                compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
                print(*(kind for kind in compiled.asm if kind == "cubin"))
