"""The block operators, decouple and rotation: one M multiplies each block of r_hat inputs (arXiv 2405.12130, Eq. 8-11).

Legend: k = in_features, d = out_features, q = r_hat, n = number of input blocks, T = number of tokens, ``...`` = any
leading dimensions. M: (q, q). R: (q, q), the rotation from one block to the next. P^b = M R^b: the matrix of block b.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .grouped import CACHED, Grouping, strided

ROTATION_BASE = 10_000.0


class Run(NamedTuple):
    """`length` blocks of delta along a diagonal. Block i of them is ``P[block + i, :height, offset : offset + width]``.

    Attributes:
        row: The first row of the first block in delta.
        column: The first column of the first block in delta.
        block: The index b of the first block's matrix P^b.
        length: The number of blocks.
        height: The number of rows of each block.
        width: The number of columns of each block.
        offset: The first column of P^b that is used. It is above 0 only where the last block wraps around to input 0.
    """

    row: int
    column: int
    block: int
    length: int
    height: int
    width: int
    offset: int

    def precedes(self, other: Run) -> bool:
        """Whether `other` continues this run, so that one batched product can compute both."""
        end = self.row + self.length * self.height, self.column + self.length * self.width, self.block + self.length
        return end == other[:3] and self[4:] == other[4:] and self.width == self.height

    @property
    def is_first(self) -> bool:
        """Whether no other run before this one reaches the same outputs: these blocks are whole and on the diagonal."""
        return self.offset == 0 and self.row == self.column

    def inputs(self, x: Tensor) -> Tensor:
        """The inputs of each block, as a view: (T, k) -> (length, T, width)."""
        part = x[:, self.column : self.column + self.length * self.width]
        return part.unflatten(1, (self.length, self.width)).transpose(0, 1)

    def outputs(self, y: Tensor) -> Tensor:
        """The outputs of each block, as a view: (T, d) -> (length, T, height)."""
        part = y[:, self.row : self.row + self.length * self.height]
        return part.unflatten(1, (self.length, self.height)).transpose(0, 1)

    def matrices(self, P: Tensor) -> Tensor:
        """The matrix of each block, as a view: (used, q, q) -> (length, height, width)."""
        return P[self.block : self.block + self.length, : self.height, self.offset : self.offset + self.width]


@dataclass(frozen=True)
class Blocked:
    """A block operator: M multiplies each block of r_hat inputs (decouple, Eq. 8). Rotation turns block b by R^b first.

    `compress` pads the input to n whole blocks, with the input's own first entries (`wrap`, as in the authors' code) or
    with zeros. M maps the n blocks to n r_hat values, which `decompress` writes to the d outputs:

    * If there are fewer than d values, they are repeated from the first block on until all outputs have a value.
    * If there are more than d values (k > d), some blocks have no output left. `surplus="drop"`, as in the authors'
      code, drops these blocks. Their inputs are dead: they get no update. In the down_proj of LLaMA-2 7B
      (11008 -> 4096) about 62 % of the inputs are dead at r = 8. `surplus="fold"` adds the values of these blocks to
      the outputs from output 0 on, so that no input is dead.

    If k <= d, `drop` and `fold` are the same. If k = d, the rank of delta is k for a generic M.

    Attributes:
        name: `decouple` or `rotation`.
        in_features: k.
        out_features: d.
        r_hat: q.
        rotate: Whether block b is turned by R^b (Eq. 9-11).
        wrap: Whether the input is padded with its own first entries.
        surplus: `drop` or `fold`.
        blocks: n, the number of input blocks.
        out_blocks: The number of output blocks. The last output block can be shorter than q.
    """

    name: str
    in_features: int
    out_features: int
    r_hat: int
    rotate: bool
    wrap: bool = True
    surplus: str = "drop"
    blocks: int = field(init=False)
    out_blocks: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", -(-self.in_features // self.r_hat))
        object.__setattr__(self, "out_blocks", -(-self.out_features // self.r_hat))

    @property
    def padding(self) -> int:
        """The number of entries that pad the last input block."""
        return self.blocks * self.r_hat - self.in_features

    @property
    def used(self) -> int:
        """The number of input blocks whose values reach an output."""
        return self.blocks if self.surplus == "fold" else min(self.blocks, self.out_blocks)

    @cached_property
    def tiles(self) -> Grouping:
        """The map between the values of the blocks and the outputs. It repeats the values if there are fewer than d."""
        return strided(self.out_features, min(self.blocks * self.r_hat, self.out_features), wrap=False)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The blocks of delta, before `tiles` repeats them over the outputs."""
        q, k, rows = self.r_hat, self.in_features, self.tiles.r_hat
        runs: list[Run] = []
        for block in range(self.used):
            row, column, offset = block % self.out_blocks * q, block * q, 0
            height = min(q, rows - row)
            while offset < q and (self.wrap or column < k):
                column %= k  # the last block can wrap around from the end of the input to input 0
                run = Run(row, column, block, 1, height, min(q - offset, k - column), offset)
                if runs and runs[-1].precedes(run):
                    runs[-1] = runs[-1]._replace(length=runs[-1].length + 1)
                else:
                    runs.append(run)
                column, offset = column + run.width, offset + run.width
        return tuple(runs)

    def compress(self, x: Tensor) -> Tensor:
        """(..., k) -> (..., n, q)."""
        if self.padding:
            if self.wrap:
                times = -(-self.padding // self.in_features)
                pad = torch.cat([x] * times, dim=-1)[..., : self.padding]
            else:
                pad = x.new_zeros(*x.shape[:-1], self.padding)
            x = torch.cat([x, pad], dim=-1)
        x = x.unflatten(-1, (self.blocks, self.r_hat))
        return turn(x, *self.tables(x)) if self.rotate else x

    def decompress(self, y: Tensor) -> Tensor:
        """(..., n, q) -> (..., d)."""
        n, n_out = self.blocks, self.out_blocks
        if n < n_out:
            y = torch.cat([y] * -(-n_out // n), dim=-2)
        elif n > n_out and self.surplus == "fold":
            zero_blocks = -n % n_out
            y = torch.nn.functional.pad(y, (0, 0, 0, zero_blocks)).unflatten(-2, (-1, n_out)).sum(-3)
        return y[..., :n_out, :].flatten(-2)[..., : self.out_features]

    def apply(self, x: Tensor, M: Tensor) -> Tensor:
        """(..., k) -> (..., d)."""
        return self.decompress(self.compress(x) @ M.mT)

    def tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the angle ``b * 10000^(-2j/q)`` by which R^b turns pair j.

        The tables are computed in float32, as in the authors' code. Tables in float64 would differ by 1e-7. The tables
        are computed at each call, not stored, so that they are always on the device of the model. The k / 2 values cost
        little compared with the product with M.

        Args:
            like: A tensor with the device and the dtype of the result.

        Returns:
            Cosines of shape (n, q // 2) and sines of shape (n, q // 2).
        """
        q, device = self.r_hat, like.device
        exponent = torch.arange(0, q - 1, 2, device=device, dtype=torch.float32) / q
        block = torch.arange(self.blocks, device=device, dtype=torch.float32)
        angle = torch.outer(block, 1.0 / ROTATION_BASE**exponent)
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)

    def matrices(self, M: Tensor) -> Tensor:
        """The matrix of each block whose values reach an output, P^b = M R^b (Eq. 11): (q, q) -> (used, q, q)."""
        if not self.rotate:
            return M.expand(self.used, -1, -1)
        cos, sin = (table[: self.used].unsqueeze(1) for table in self.tables(M))
        return turn(M, cos, -sin)

    def sum_matrices(self, P: Tensor) -> Tensor:
        """The transpose of `matrices`: (used, q, q) -> (q, q)."""
        if self.rotate:
            cos, sin = (table[: self.used].unsqueeze(1) for table in self.tables(P))
            P = turn(P, cos, sin)
        return P.sum(0)

    def delta_weight(self, M: Tensor) -> Tensor:
        """(q, q) -> (d, k)."""
        delta = M.new_zeros(self.out_features, self.in_features)
        return self.add_delta_(delta, M)

    def sum_delta(self, grad: Tensor) -> Tensor:
        """(d, k) -> (q, q)."""
        rows = self.tiles.sum(grad.mT).mT
        P = grad.new_zeros(self.used, self.r_hat, self.r_hat)
        for run in self.runs:
            blocks = run.matrices(P)
            for i in range(run.length):
                row, column = run.row + i * run.height, run.column + i * run.width
                blocks[i] += rows[row : row + run.height, column : column + run.width]
        return self.sum_matrices(P)

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)`` in place. Entries of the weight outside the blocks are not read.

        Each addition rounds to the dtype of the weight. An entry that several blocks reach, by `wrap` or by
        `surplus="fold"`, is rounded as many times, all others once.
        """
        period, chunk = self.tiles.r_hat, max(1, CACHED // self.r_hat)  # `chunk` rows of M stay in the cache
        cos, sin = self.tables(M)
        for run in self.runs:
            for i in range(run.length):
                block, column = run.block + i, run.column + i * run.width
                for top in range(0, run.height, chunk):
                    part = M[top : min(top + chunk, run.height)]
                    if self.rotate:
                        part = turn(part, cos[block], -sin[block])
                    part = part[:, run.offset : run.offset + run.width]
                    for row in range(run.row + i * run.height + top, self.out_features, period):
                        rows = weight[row : row + len(part), column : column + run.width]
                        rows.add_(part[: len(rows)], alpha=sign)
        return weight


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (j, j + q // 2) of the last axis. If q is odd, the last entry stays as it is.

    Args:
        x: (..., q), or a shape that broadcasts to (..., q).
        cos: The cosine of each pair's angle, (..., q // 2), or a shape that broadcasts to (..., q // 2).
        sin: The sine of each pair's angle, in the shape of `cos`.

    Returns:
        (..., q).
    """
    half = x.shape[-1] // 2
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    left = torch.addcmul(first * cos, second, sin, value=-1)
    right = torch.addcmul(second * cos, first, sin)
    return torch.cat([left, right, rest.expand(*left.shape[:-1], -1)], dim=-1)
