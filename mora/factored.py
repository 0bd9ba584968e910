"""Operators whose update is a product of three matrices: ``delta = Q M P``.

P compresses the inputs and Q decompresses to the outputs. Neither has trainable parameters. A `FeatureMap` is one of
the two, as a linear map without a stored matrix: a `Grouping` sums groups of features, a `Projection` takes random
combinations.

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions. M: (q, q). P: (q, k). Q: (d, q).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class FeatureMap(Protocol):
    """A linear map from `size` features to r_hat numbers, and its transpose."""

    @property
    def size(self) -> int:
        """The number of features."""
        ...

    @property
    def r_hat(self) -> int:
        """The side q of M."""
        ...

    def sum(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(..., size) -> (..., r_hat), computed in `dtype` (default: the dtype of x)."""
        ...

    def spread(self, y: Tensor) -> Tensor:
        """The transpose of `sum`: (..., r_hat) -> (..., size)."""
        ...

    def add_spread_(self, out: Tensor, y: Tensor, sign: float = 1.0) -> Tensor:
        """``out += sign * spread(y)`` in place. `out` and y may differ in dtype."""
        ...


@dataclass(frozen=True)
class Factored:
    """An operator with ``delta = Q M P``. The rank of delta is min(r_hat, in_features, out_features) for a generic M.

    Attributes:
        name: The name of the operator.
        inputs: The map of the k inputs. `sum` multiplies by P.
        outputs: The map of the d outputs. `spread` multiplies by Q.
    """

    name: str
    inputs: FeatureMap
    outputs: FeatureMap

    @property
    def in_features(self) -> int:
        """The size k of the input."""
        return self.inputs.size

    @property
    def out_features(self) -> int:
        """The size d of the output."""
        return self.outputs.size

    @property
    def r_hat(self) -> int:
        """The side of M."""
        return self.inputs.r_hat

    def compress(self, x: Tensor) -> Tensor:
        """(..., k) -> (..., q)."""
        return self.inputs.sum(x)

    def decompress(self, y: Tensor) -> Tensor:
        """(..., q) -> (..., d)."""
        return self.outputs.spread(y)

    def apply(self, x: Tensor, M: Tensor) -> Tensor:
        """(..., k) -> (..., d)."""
        return self.decompress(self.compress(x) @ M.mT)

    def delta_weight(self, M: Tensor) -> Tensor:
        """(q, q) -> (d, k)."""
        return self.add_delta_(M.new_zeros(self.out_features, self.in_features), M)

    def sum_delta(self, grad: Tensor) -> Tensor:
        """(d, k) -> (q, q)."""
        return self.outputs.sum(self.inputs.sum(grad).mT).mT

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)`` in place."""
        self.outputs.add_spread_(weight.mT, self.inputs.spread(M).mT, sign)
        return weight
