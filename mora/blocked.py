"""Decouple and rotation: the same square matrix on each block of r_hat inputs (arXiv 2405.12130, Eq. 8-11).

Legend: k = in_features, d = out_features, q = r_hat, n = number of input blocks, ``...`` = any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

ROTATION_BASE = 10_000.0


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

    def routes(self) -> Iterator[tuple[int, int]]:
        """Pairs (output block, input block) for which delta holds M R^b."""
        if self.blocks < self.out_blocks:
            yield from ((o, o % self.blocks) for o in range(self.out_blocks))
        else:
            used = self.blocks if self.surplus == "fold" else self.out_blocks
            yield from ((b % self.out_blocks, b) for b in range(used))

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
        """The matrix of each block, P^b = M R^b (Eq. 11), shape (n, q, q)."""
        if not self.rotate:
            return M.expand(self.blocks, -1, -1)
        cos, sin = self.tables(M)
        return turn(M.expand(self.blocks, -1, -1), cos.unsqueeze(1), -sin.unsqueeze(1))

    def delta_weight(self, M: Tensor) -> Tensor:
        """(q, q) -> (d, k)."""
        delta = M.new_zeros(self.out_features, self.in_features)
        return self.add_delta_(delta, M)

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)``, in place; only the blocks that M fills are touched."""
        P, q, k = self.matrices(M), self.r_hat, self.in_features
        for o, b in self.routes():
            rows = weight[o * q : (o + 1) * q]
            start, done = b * q, 0
            # The last block may run over the end of the input and start over from input 0.
            while done < q:
                if start >= k:
                    if not self.wrap:
                        break
                    start -= k
                width = min(q - done, k - start)
                rows[:, start : start + width].add_(P[b, : rows.shape[0], done : done + width], alpha=sign)
                start, done = start + width, done + width
        return weight


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (j, j + q // 2) of the last axis. An odd q leaves its last entry where it is.

    Args:
        x: (..., q).
        cos: Broadcastable to (..., q // 2).
        sin: Broadcastable to (..., q // 2).
    """
    half = x.shape[-1] // 2
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
