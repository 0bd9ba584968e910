"""The parameter-free operators around MoRA's square matrix (arXiv 2405.12130, section 3.2).

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions.

LoRA adds ``B A x`` to ``W x``. MoRA adds ``decompress(M compress(x))`` with a single square matrix M of shape
(q, q) that holds as many numbers as A and B together:

    compress:   (..., k) -> (..., q)        or (..., n, q) where the input is cut into n blocks
    decompress: (..., q) -> (..., d)        or (..., n, q) -> (..., d)

Both are linear, so there is a ``delta_weight(M)`` of shape (d, k) that does the same (Eq. 3). Two families exist.
In the *grouped* operators (`truncation`, `sharing`) every feature belongs to one of q groups and
``delta[i, j] = M[group(i), group(j)]``. In the *block* operators (`decouple`, `rotation`) the same M acts on each of
the n blocks of the input and delta is block-diagonal.

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


class Operator(Protocol):
    """What `build` returns. M is a tensor of shape (r_hat, r_hat)."""

    @property
    def in_features(self) -> int:
        """Size k of the layer's input."""
        ...

    @property
    def out_features(self) -> int:
        """Size d of the layer's output."""
        ...

    @property
    def r_hat(self) -> int:
        """Side q of M."""
        ...

    def compress(self, x: Tensor) -> Tensor:
        """(..., in_features) -> what M multiplies: (..., r_hat) or (..., n, r_hat)."""
        ...

    def decompress(self, y: Tensor) -> Tensor:
        """The shape that `compress` returns -> (..., out_features)."""
        ...

    def apply(self, x: Tensor, M: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features); equals ``x @ delta_weight(M).T``."""
        ...

    def delta_weight(self, M: Tensor) -> Tensor:
        """The merged update (Eq. 3), shape (out_features, in_features)."""
        ...

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)`` in place, without building the dense delta."""
        ...


def square_size(in_features: int, out_features: int, r: int, even: bool = False) -> int:
    """The side of the largest square matrix within the budget of a rank-`r` LoRA: ``floor(sqrt((d + k) r))``.

    Args:
        in_features: k.
        out_features: d.
        r: The LoRA rank whose parameters, ``(d + k) r``, may be spent.
        even: Round down to an even number, which the pairs of the rotation operator need.

    Note:
        The authors' code rounds to the nearest integer instead, and may thus exceed LoRA's budget by a row.

    >>> square_size(4096, 4096, 8), square_size(4096, 4096, 256), square_size(4096, 11008, 8, even=True)
    (256, 1448, 346)
    """
    if min(in_features, out_features, r) < 1:
        raise ValueError(f"in_features, out_features and r must be positive, got {in_features}, {out_features}, {r}")
    q = math.isqrt((in_features + out_features) * r)
    return q - q % 2 if even and q > 1 else q


NAMES = ("truncation", "sharing", "decouple", "rotation")
GROUPS = ("strided", "contiguous")
SURPLUS = ("drop", "fold")


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
) -> Operator:
    """Make the operator `name` for a layer. Any positive sizes work, also r_hat above either side.

    Args:
        name: One of `NAMES`.
        in_features: k of the layer.
        out_features: d of the layer.
        r_hat: Side of the square matrix, usually `square_size(...)`.
        in_groups: `strided` or `contiguous`; used by sharing alone.
        out_groups: The same for the outputs.
        wrap: Pad an input that r_hat does not divide with its own first entries, which then count twice, as the
            authors' code does. False pads with nothing, as Eq. 6 and Eq. 8 read. Strided sharing, decouple, rotation.
        surplus: `drop` or `fold`; what decouple and rotation do when k > d, see `Blocked`.

    Raises:
        ValueError: An unknown name or option, or a size below one.
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
    if name == "truncation":
        return Grouped(name, truncated(in_features, r_hat), truncated(out_features, r_hat))
    if name == "sharing":
        inputs = strided(in_features, r_hat, wrap) if in_groups == "strided" else contiguous(in_features, r_hat)
        outputs = strided(out_features, r_hat, False) if out_groups == "strided" else contiguous(out_features, r_hat)
        return Grouped(name, inputs, outputs)
    return Blocked(name, in_features, out_features, r_hat, name == "rotation", wrap, surplus)


# mora_type of the authors' code (kongds/MoRA) -> operator and options.
OFFICIAL_TYPES: dict[int, tuple[str, dict[str, Any]]] = {
    1: ("sharing", {"in_groups": "strided", "out_groups": "strided"}),
    2: ("sharing", {"in_groups": "contiguous", "out_groups": "contiguous"}),
    3: ("sharing", {"in_groups": "contiguous", "out_groups": "strided"}),
    4: ("sharing", {"in_groups": "strided", "out_groups": "contiguous"}),
    6: ("rotation", {}),
}


def build_official(mora_type: int, in_features: int, out_features: int, r_hat: int) -> Operator:
    """The operator that equals `mora_type` 1, 2, 3, 4 or 6 of the authors' code.

    Raises:
        ValueError: Another type, or a size below one.
    """
    if mora_type not in OFFICIAL_TYPES:
        allowed = ", ".join(map(str, OFFICIAL_TYPES))
        raise ValueError(f"mora_type must be one of {allowed}, got {mora_type!r}")
    name, options = OFFICIAL_TYPES[mora_type]
    return build(name, in_features, out_features, r_hat, **options)
