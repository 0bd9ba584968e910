"""Decouple and rotation: the same square matrix on each block of r_hat inputs (arXiv 2405.12130, Eq. 8-11).

Legend: k = in_features, d = out_features, q = r_hat, n = number of input blocks, ``...`` = any leading dimensions.
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
    """`length` blocks of delta along a diagonal; the i-th is ``P[block + i, :height, offset : offset + width]``."""

    row: int
    column: int
    block: int
    length: int
    height: int
    width: int
    offset: int

    def precedes(self, other: Run) -> bool:
        """Whether `other` continues this run, so that one batched product does both."""
        end = self.row + self.length * self.height, self.column + self.length * self.width, self.block + self.length
        return end == other[:3] and self[4:] == other[4:] and self.width == self.height

    def inputs(self, x: Tensor) -> Tensor:
        """A view of the inputs of each block: (T, k) -> (length, T, width)."""
        part = x[:, self.column : self.column + self.length * self.width]
        return part.unflatten(1, (self.length, self.width)).transpose(0, 1)

    def outputs(self, y: Tensor) -> Tensor:
        """A view of the outputs of each block: (T, d) -> (length, T, height)."""
        part = y[:, self.row : self.row + self.length * self.height]
        return part.unflatten(1, (self.length, self.height)).transpose(0, 1)

    def matrices(self, P: Tensor) -> Tensor:
        """A view of the matrix of each block: (used, q, q) -> (length, height, width)."""
        return P[self.block : self.block + self.length, : self.height, self.offset : self.offset + self.width]


@dataclass(frozen=True)
class Blocked:
    """The same M on each block of r_hat inputs (decouple, Eq. 8), block b first turned by R^b (rotation, Eq. 9-11).

    The input is padded to a whole number of blocks, n, with its own first entries (`wrap`, as the authors' code) or
    with zeros. The n r_hat values that M yields are then laid over the d outputs:

    * fewer than d: they start over from the first block;
    * more than d (a layer with k > d): `surplus="drop"`, the authors' behaviour, discards the blocks that have no
      output left. Their inputs are dead: they get no update at all. In a LLaMA-2 7B down_proj (11008 -> 4096) at
      r = 8 that is about 62 % of the inputs. `surplus="fold"` adds those blocks onto the outputs again, starting
      from output 0, so that no input is dead. The two are the same whenever k <= d.

    The rank of delta is min(in_features, out_features) for a generic M where k = d.
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
        """How many entries the input lacks to fill its last block."""
        return self.blocks * self.r_hat - self.in_features

    @property
    def used(self) -> int:
        """How many of the n input blocks reach an output."""
        return self.blocks if self.surplus == "fold" else min(self.blocks, self.out_blocks)

    @cached_property
    def tiles(self) -> Grouping:
        """How the values that the blocks yield are laid over the outputs: once, or again and again where k < d."""
        return strided(self.out_features, min(self.blocks * self.r_hat, self.out_features), wrap=False)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The blocks of delta, before they are repeated over the outputs."""
        q, k, rows = self.r_hat, self.in_features, self.tiles.r_hat
        runs: list[Run] = []
        for block in range(self.used):
            row, column, offset = block % self.out_blocks * q, block * q, 0
            height = min(q, rows - row)
            while offset < q and (self.wrap or column < k):
                column %= k  # the last block may run over the end of the input and start over from input 0
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
            missing = -n % n_out
            y = torch.nn.functional.pad(y, (0, 0, 0, missing)).unflatten(-2, (-1, n_out)).sum(-3)
        return y[..., :n_out, :].flatten(-2)[..., : self.out_features]

    def apply(self, x: Tensor, M: Tensor) -> Tensor:
        """(..., k) -> (..., d)."""
        return self.decompress(self.compress(x) @ M.mT)

    def tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the angle ``b * 10000^(-2j/q)``, each of shape (n, q // 2).

        Computed in float32 whatever the dtype of `like`, as the authors' code does (a float64 table would differ by
        1e-7), and made anew at each call: there is nothing to go stale when a model moves, and k / 2 values cost
        nothing beside the matrix product.
        """
        q, device = self.r_hat, like.device
        exponent = torch.arange(0, q - 1, 2, device=device, dtype=torch.float32) / q
        block = torch.arange(self.blocks, device=device, dtype=torch.float32)
        angle = torch.outer(block, 1.0 / ROTATION_BASE**exponent)
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)

    def matrices(self, M: Tensor) -> Tensor:
        """The matrix of each block that is used, P^b = M R^b (Eq. 11), shape (used, q, q)."""
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

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)``, in place; only the blocks that M fills are touched."""
        period, at_once = self.tiles.r_hat, max(1, CACHED // self.r_hat)
        cos, sin = self.tables(M)
        for run in self.runs:
            for i in range(run.length):
                block, column = run.block + i, run.column + i * run.width
                for top in range(0, run.height, at_once):
                    part = M[top : min(top + at_once, run.height)]
                    if self.rotate:
                        part = turn(part, cos[block], -sin[block])
                    part = part[:, run.offset : run.offset + run.width]
                    for row in range(run.row + i * run.height + top, self.out_features, period):
                        rows = weight[row : row + len(part), column : column + run.width]
                        rows.add_(part[: len(rows)], alpha=sign)
        return weight


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (j, j + q // 2) of the last axis. An odd q leaves its last entry where it is.

    Args:
        x: (..., q), or broadcastable to it.
        cos: (..., q // 2), or broadcastable to it.
        sin: The same.
    """
    half = x.shape[-1] // 2
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    left = torch.addcmul(first * cos, second, sin, value=-1)
    right = torch.addcmul(second * cos, first, sin)
    return torch.cat([left, right, rest.expand(*left.shape[:-1], -1)], dim=-1)
