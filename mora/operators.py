"""The parameter-free operators around MoRA's square matrix (arXiv 2405.12130, section 3.2).

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions.

LoRA adds ``B A x`` to ``W x``. MoRA adds ``decompress(M compress(x))``. M is one square matrix of shape (q, q) that
holds as many numbers as A and B together:

    compress:   (..., k) -> (..., q)        or, if the input is split into n blocks, (..., k) -> (..., n, q)
    decompress: (..., q) -> (..., d)        or, if the input is split into n blocks, (..., n, q) -> (..., d)

Both functions are linear, so they are equal to one update of the weight, ``delta_weight(M)`` of shape (d, k) (Eq. 3).
The paper has two families of operators. In the *grouped* operators (`truncation`, `sharing`) every feature belongs to
one of q groups and ``delta[i, j] = M[group(i), group(j)]``. In the *block* operators (`decouple`, `rotation`) the same
M multiplies each of the n blocks of the input and delta is block-diagonal. The paper does not have `randproj`, which is
a control: it compresses and decompresses with fixed random projections.

    >>> import torch
    >>> operator = build("sharing", in_features=6, out_features=4, r_hat=2)
    >>> operator.compress(torch.arange(6.0))
    tensor([6., 9.])
    >>> operator.decompress(torch.tensor([1.0, 2.0]))
    tensor([1., 2., 1., 2.])
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from torch import Tensor

from .blocked import Blocked
from .grouped import Grouped, contiguous, strided, truncated
from .projected import projected


class Operator(Protocol):
    """The pair `compress` and `decompress` of one layer. `build` returns it. M has shape (r_hat, r_hat)."""

    @property
    def name(self) -> str:
        """The name of the operator, one of `NAMES`."""
        ...

    @property
    def in_features(self) -> int:
        """The size k of the layer's input."""
        ...

    @property
    def out_features(self) -> int:
        """The size d of the layer's output."""
        ...

    @property
    def r_hat(self) -> int:
        """The side q of M."""
        ...

    def compress(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., r_hat), or (..., n, r_hat) for a block operator. M multiplies the last axis."""
        ...

    def decompress(self, y: Tensor) -> Tensor:
        """(..., r_hat), or (..., n, r_hat) for a block operator -> (..., out_features)."""
        ...

    def apply(self, x: Tensor, M: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features). Equal to ``x @ delta_weight(M).T``."""
        ...

    def delta_weight(self, M: Tensor) -> Tensor:
        """The update of the weight (Eq. 3), shape (out_features, in_features)."""
        ...

    def sum_delta(self, grad: Tensor) -> Tensor:
        """The transpose of `delta_weight`: the gradient of M for a gradient of the weight, (d, k) -> (q, q)."""
        ...

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)`` in place, without a dense copy of the delta in memory."""
        ...


FACTORED = ("truncation", "sharing", "randproj")  # the update is Q M P: a LoRA of rank r_hat
BLOCKED = ("decouple", "rotation")  # the update has full rank
NAMES = ("truncation", "sharing", "decouple", "rotation", "randproj")
GROUPS = ("strided", "contiguous")
SURPLUS = ("drop", "fold")
ROUNDINGS = ("floor", "nearest")


def square_size(in_features: int, out_features: int, r: int, even: bool = False, rounding: str = "floor") -> int:
    """The side q of the square matrix that has about as many parameters as a LoRA of rank `r`: ``sqrt((d + k) r)``.

    Args:
        in_features: k.
        out_features: d.
        r: The rank of the LoRA, which has ``(d + k) r`` parameters.
        even: Whether to round q down to an even number. Rotation needs an even q, because it turns pairs of entries.
        rounding: `floor`, as in the paper: M never has more parameters than the LoRA. `nearest`, as in the authors'
            code: M can have more parameters than the LoRA, by at most one row of M.

    Raises:
        ValueError: `in_features`, `out_features` or `r` is below 1, or `rounding` is unknown.

    >>> square_size(4096, 4096, 8), square_size(4096, 4096, 256), square_size(4096, 11008, 8, even=True)
    (256, 1448, 346)
    >>> square_size(768, 768, 8), square_size(768, 768, 8, rounding="nearest")
    (110, 111)
    """
    if min(in_features, out_features, r) < 1:
        raise ValueError(f"in_features, out_features and r must be positive, got {in_features}, {out_features}, {r}")
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    parameters = (in_features + out_features) * r
    q = math.isqrt(parameters)
    if rounding == "nearest" and parameters > q * q + q:  # the root is above q + 1/2
        q += 1
    return q - q % 2 if even and q > 1 else q


def build(
    name: str,
    in_features: int,
    out_features: int,
    r_hat: int,
    *,
    in_groups: str = "strided",
    out_groups: str = "strided",
    wrap: bool = True,
    surplus: str = "drop",
    seed: int = 0,
) -> Operator:
    """Build the operator `name` for a layer. All sizes of at least 1 are allowed; r_hat may exceed k and d.

    Args:
        name: One of `NAMES`.
        in_features: k, the size of the layer's input.
        out_features: d, the size of the layer's output.
        r_hat: q, the side of the square matrix. Usually `square_size(...)`.
        in_groups: The grouping of the inputs, `strided` or `contiguous`. Only sharing uses it.
        out_groups: The grouping of the outputs, `strided` or `contiguous`. Only sharing uses it.
        wrap: How an input is padded if r_hat does not divide k. True: with its own first entries, which then count
            twice, as in the authors' code. False: with zeros, as in Eq. 6 and Eq. 8. Truncation and contiguous sharing
            need no padding and ignore `wrap`.
        surplus: What decouple and rotation do with surplus blocks if k > d, `drop` or `fold` (see `Blocked`).
        seed: The seed of the random projections, 0 or more. Only randproj uses it.

    Raises:
        ValueError: The name or an option is unknown, or a size is below 1, or the seed is below 0.
    """
    where = f"in_features={in_features}, out_features={out_features}, r_hat={r_hat}"
    if min(in_features, out_features, r_hat) < 1:
        raise ValueError(f"sizes must be at least 1, got {where}")
    for label, value, allowed in (
        ("operator", name, NAMES),
        ("in_groups", in_groups, GROUPS),
        ("out_groups", out_groups, GROUPS),
        ("surplus", surplus, SURPLUS),
    ):
        if value not in allowed:
            raise ValueError(f"{label} must be one of {', '.join(allowed)}, got {value!r} ({where})")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed} ({where})")
    if name == "randproj":
        return projected(in_features, out_features, r_hat, seed)
    if name == "truncation":
        return Grouped(name, truncated(in_features, r_hat), truncated(out_features, r_hat))
    if name == "sharing":
        inputs = strided(in_features, r_hat, wrap) if in_groups == "strided" else contiguous(in_features, r_hat)
        outputs = strided(out_features, r_hat, False) if out_groups == "strided" else contiguous(out_features, r_hat)
        return Grouped(name, inputs, outputs)
    return Blocked(name, in_features, out_features, r_hat, name == "rotation", wrap, surplus)


# mora_type in the authors' code (kongds/MoRA) -> name and options for `build`.
OFFICIAL_TYPES: dict[int, tuple[str, dict[str, Any]]] = {
    1: ("sharing", {"in_groups": "strided", "out_groups": "strided"}),
    2: ("sharing", {"in_groups": "contiguous", "out_groups": "contiguous"}),
    3: ("sharing", {"in_groups": "contiguous", "out_groups": "strided"}),
    4: ("sharing", {"in_groups": "strided", "out_groups": "contiguous"}),
    6: ("rotation", {}),
}


def official_options(mora_type: Any) -> tuple[str, dict[str, Any]]:
    """The name and the options for `build` that equal `mora_type` 1, 2, 3, 4 or 6 of the authors' code.

    Raises:
        ValueError: `mora_type` has another value.
    """
    if mora_type not in tuple(OFFICIAL_TYPES):
        allowed = ", ".join(map(str, OFFICIAL_TYPES))
        raise ValueError(f"mora_type must be one of {allowed}, got {mora_type!r}")
    return OFFICIAL_TYPES[mora_type]


def build_official(mora_type: int, in_features: int, out_features: int, r_hat: int) -> Operator:
    """Build the operator that equals `mora_type` 1, 2, 3, 4 or 6 of the authors' code.

    Raises:
        ValueError: `mora_type` has another value, or a size is below 1.
    """
    name, options = official_options(mora_type)
    return build(name, in_features, out_features, r_hat, **options)
