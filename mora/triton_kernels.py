# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Triton kernels for the two steps of `kernels`. Import this module only where Triton is installed.

The segments of a grouping are constants of a kernel, so each grouping has a kernel of its own. Triton reads the types
of arguments as code, so the arguments of a kernel have no types.

Legend: k = number of features, q = r_hat, T = number of tokens, ``...`` = any leading dimensions.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from .grouped import Grouping

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the kernels then run on the CPU, for tests
# The tile of a program: tokens times groups or features. Both sizes are guesses: nobody has measured the kernels.
TOKENS, COLUMNS = 8, 128


def sum_groups(grouping: Grouping, x: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., k) -> (..., q) in `dtype`, summed in float32. Reads x once."""
    rows = x.reshape(-1, grouping.size).contiguous()
    out = rows.new_empty(len(rows), grouping.r_hat, dtype=dtype)
    sum_kernel[_grid(len(rows), grouping.r_hat)](
        rows, out, len(rows), grouping.size, grouping.r_hat, _segments(grouping), TOKENS, COLUMNS
    )
    return out.view(*x.shape[:-1], grouping.r_hat)


def add_spread_(grouping: Grouping, out: Tensor, y: Tensor) -> Tensor:
    """``out += spread(y)`` in place, added in float32. Reads and writes `out` once. out: (..., k). y: (..., q)."""
    rows, values = out.view(-1, grouping.size), y.reshape(-1, grouping.r_hat).contiguous()
    add_kernel[_grid(len(rows), grouping.size)](
        rows, values, len(rows), grouping.size, grouping.r_hat, _segments(grouping), TOKENS, COLUMNS
    )
    return out


def _grid(tokens: int, columns: int) -> tuple[int, int]:
    return -(-tokens // TOKENS), -(-columns // COLUMNS)


def _segments(grouping: Grouping) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, segment)) for segment in grouping.segments)


@triton.jit
def sum_kernel(x, out, tokens, size, r_hat, SEGMENTS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr):
    """``out = sum(x)`` for a tile of `out`. x: (T, k). out: (T, q)."""
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None].to(tl.int64)
    group = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    total = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for i in tl.static_range(len(SEGMENTS)):
        first, first_group, repeat, width, strided = SEGMENTS[i]
        place = group - first_group
        inside = (token < tokens) & (place >= 0) & (place < width)
        for j in range(repeat):
            feature = first + j * width + place if strided else first + place * repeat + j
            total += tl.load(x + token * size + feature, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * r_hat + group, total.to(out.dtype.element_ty), mask=(token < tokens) & (group < r_hat))


@triton.jit
def add_kernel(out, y, tokens, size, r_hat, SEGMENTS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr):
    """``out += spread(y)`` for a tile of `out`. out: (T, k). y: (T, q)."""
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None].to(tl.int64)
    feature = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    valid = (token < tokens) & (feature < size)
    total = tl.load(out + token * size + feature, mask=valid, other=0.0).to(tl.float32)
    for i in tl.static_range(len(SEGMENTS)):
        first, first_group, repeat, width, strided = SEGMENTS[i]
        place = feature - first
        inside = valid & (place >= 0) & (place < repeat * width)
        group = first_group + place % width if strided else first_group + place // repeat
        total += tl.load(y + token * r_hat + group, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * size + feature, total.to(out.dtype.element_ty), mask=valid)
