"""The control operator randproj: random projections take the place of the paper's compression and decompression.

    delta = Q M P          P: (q, k) and Q: (d, q), random, with orthonormal rows and columns times a constant

M is as large as for the paper's operators, and delta has the same rank as with sharing. If randproj is as good as
sharing, the square matrix makes MoRA work and the choice of the groups does not matter.

P and Q follow from the seed and the sizes. They are computed when they are needed and never saved. Layers of the same
size have the same P and Q, as layers of the same size have the same groups with sharing.

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .factored import Factored
from .grouped import CACHED


@dataclass(frozen=True)
class Projection:
    """The map of the inputs or of the outputs: a random matrix R of shape (r_hat, size), which the seed decides.

    The rows of R are orthonormal, times ``sqrt(size / r_hat)``. If r_hat exceeds `size`, the columns are orthonormal
    instead. With this factor the columns of R have length 1 on average, as the columns of zeros and a single one in
    sharing do. So a learning rate means the same for both operators.

    Attributes:
        size: The number of features.
        r_hat: The side of M.
        seed: The seed of the random numbers.
    """

    size: int
    r_hat: int
    seed: int

    def matrix(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """R, on the device of `like` and in `dtype` (default: the dtype of `like`)."""
        dtype = dtype or like.dtype
        if torch.compiler.is_compiling():  # asked first: torch.export compiles with tensors without memory
            return compiled_random_matrix(like.detach(), self.size, self.r_hat, self.seed, dtype)
        if like.is_meta or isinstance(like, FakeTensor):  # a dry run needs the shape only
            return like.new_empty(self.r_hat, self.size, dtype=dtype)
        return random_matrix(self.size, self.r_hat, self.seed, like.device, dtype)

    def sum(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """``x R^T``: (..., size) -> (..., r_hat)."""
        R = self.matrix(x, dtype)
        return x.to(R.dtype) @ R.mT

    def spread(self, y: Tensor) -> Tensor:
        """``y R``: (..., r_hat) -> (..., size)."""
        return y @ self.matrix(y)

    def add_spread_(self, out: Tensor, y: Tensor, sign: float = 1.0) -> Tensor:
        """``out += sign * spread(y)`` in place. If the dtypes differ, a few rows at a time are rounded, once."""
        R = self.matrix(y)
        rows, y = out.view(-1, self.size), y.reshape(-1, self.r_hat)
        if rows.dtype == y.dtype:
            rows.addmm_(y, R, alpha=sign)
            return out
        chunk = max(1, CACHED // self.size)
        for part, values in zip(rows.split(chunk), y.split(chunk), strict=True):
            part.add_(values @ R, alpha=sign)
        return out


def projected(in_features: int, out_features: int, r_hat: int, seed: int) -> Factored:
    """The operator randproj for a layer. The inputs and the outputs have different random numbers."""
    return Factored("randproj", Projection(in_features, r_hat, 2 * seed), Projection(out_features, r_hat, 2 * seed + 1))


@lru_cache(maxsize=256)  # a model has a few sizes; without a limit a long-lived process would keep old matrices
def random_matrix(size: int, r_hat: int, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix R of a `Projection`. The numbers are computed on the CPU, so every device has the same ones."""
    # A tensor that is created in inference mode, or under a transform of torch.func, could not be used later.
    with torch._C._DisableFuncTorch(), torch.inference_mode(False), torch.no_grad():
        short, long = sorted((size, r_hat))
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(long, short, generator=generator, dtype=torch.float64, device="cpu")
        columns, triangle = torch.linalg.qr(normal)
        # The decomposition leaves the signs of the columns open. A positive diagonal makes it unique.
        columns = columns * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
        R = columns if r_hat == long else columns.mT
        return (R * math.sqrt(size / short)).to(device, dtype).contiguous()


@torch.library.custom_op("mora::random_matrix", mutates_args=())
def compiled_random_matrix(like: Tensor, size: int, r_hat: int, seed: int, dtype: torch.dtype) -> Tensor:
    """`random_matrix` for compiled code, as one operation that the compiler does not look into.

    The result is a copy, because compiled code may overwrite what an operation returns.
    """
    return random_matrix(size, r_hat, seed, like.device, dtype).clone()


@compiled_random_matrix.register_fake
def _(like: Tensor, size: int, r_hat: int, seed: int, dtype: torch.dtype) -> Tensor:
    return like.new_empty(r_hat, size, dtype=dtype)
