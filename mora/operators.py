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
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

ROTATION_BASE = 10_000.0


class Operator(Protocol):
    """What `build` returns. M is a tensor of shape (r_hat, r_hat)."""

    in_features: int
    out_features: int
    r_hat: int

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


class Segment(NamedTuple):
    """`repeat` features for each of `width` groups, laid out group-fastest (strided) or group-slowest."""

    feature: int
    group: int
    repeat: int
    width: int
    strided: bool

    @property
    def features(self) -> slice:
        return slice(self.feature, self.feature + self.repeat * self.width)

    @property
    def groups(self) -> slice:
        return slice(self.group, self.group + self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """How the features of this segment fold: the axis of the groups and the axis of the repeats."""
        return (self.repeat, self.width) if self.strided else (self.width, self.repeat)

    @property
    def repeat_axis(self) -> int:
        """The axis of `shape`, counted from the end, that is summed over or broadcast along."""
        return -2 if self.strided else -1


@dataclass(frozen=True)
class Grouping:
    """A linear map that sums `size` features into `r_hat` groups, given as a list of segments.

    `spread` is the transpose of `sum`; every grouped operator is ``delta = spread_out(spread_in(M))``.
    """

    size: int
    r_hat: int
    segments: tuple[Segment, ...]

    def sum(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., r_hat)."""
        total = x.new_zeros(*x.shape[:-1], self.r_hat)
        for s in self.segments:
            total[..., s.groups] += x[..., s.features].unflatten(-1, s.shape).sum(s.repeat_axis)
        return total

    def spread(self, y: Tensor) -> Tensor:
        """(..., r_hat) -> (..., size)."""
        out = y.new_zeros(*y.shape[:-1], self.size)
        for s in self.segments:
            folded = y[..., s.groups].unsqueeze(s.repeat_axis).expand(*y.shape[:-1], *s.shape)
            out[..., s.features] += folded.flatten(-2)
        return out


def truncated(size: int, r_hat: int) -> Grouping:
    """Feature i is group i; features beyond r_hat belong to none (Eq. 5)."""
    return Grouping(size, r_hat, (Segment(0, 0, 1, min(size, r_hat), True),))


def strided(size: int, r_hat: int, wrap: bool) -> Grouping:
    """Feature i belongs to group ``i mod r_hat``.

    With `wrap` the features are first padded to a multiple of r_hat by starting over from feature 0, as the authors'
    code does on the input side: the first ``-size mod r_hat`` features then count in two groups.
    """
    full, rest = divmod(size, r_hat)
    segments = []
    if full:
        segments.append(Segment(0, 0, full, r_hat, True))
    if rest:
        segments.append(Segment(full * r_hat, 0, 1, rest, True))
    if rest and wrap:
        # More than one piece only where r_hat exceeds twice the size: the padding then wraps around several times.
        for group in range(rest, r_hat, size):
            segments.append(Segment(0, group, 1, min(size, r_hat - group), True))
    return Grouping(size, r_hat, tuple(segments))


def contiguous(size: int, r_hat: int) -> Grouping:
    """Each group is a run of neighbours; the first ``size mod r_hat`` groups are one longer than the others."""
    short, longer = divmod(size, r_hat)
    segments = []
    if longer:
        segments.append(Segment(0, 0, short + 1, longer, False))
    if short:
        segments.append(Segment(longer * (short + 1), longer, short, r_hat - longer, False))
    return Grouping(size, r_hat, tuple(segments))


@dataclass(frozen=True)
class Grouped:
    """``delta[i, j] = M[group(i), group(j)]``: truncation (Eq. 4-5) and sharing (Eq. 6-7).

    The rank of delta is min(r_hat, in_features, out_features) for a generic M.
    """

    name: str
    inputs: Grouping
    outputs: Grouping

    @property
    def in_features(self) -> int:
        return self.inputs.size

    @property
    def out_features(self) -> int:
        return self.outputs.size

    @property
    def r_hat(self) -> int:
        return self.inputs.r_hat

    def compress(self, x: Tensor) -> Tensor:
        return self.inputs.sum(x)

    def decompress(self, y: Tensor) -> Tensor:
        return self.outputs.spread(y)

    def apply(self, x: Tensor, M: Tensor) -> Tensor:
        return self.decompress(self.compress(x) @ M.mT)

    def delta_weight(self, M: Tensor) -> Tensor:
        return self.outputs.spread(self.inputs.spread(M).mT).mT

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        for o in self.outputs.segments:
            for i in self.inputs.segments:
                view = weight[o.features, i.features].unflatten(0, o.shape).unflatten(2, i.shape)
                block = M[o.groups, i.groups].unsqueeze(0 if o.strided else 1).unsqueeze(2 if i.strided else 3)
                view.add_(block, alpha=sign)
        return weight


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
        return self.blocks * self.r_hat - self.in_features

    def routes(self) -> Iterator[tuple[int, int]]:
        """Pairs (output block, input block) for which delta holds M R^b."""
        if self.blocks < self.out_blocks:
            yield from ((o, o % self.blocks) for o in range(self.out_blocks))
        else:
            used = self.blocks if self.surplus == "fold" else self.out_blocks
            yield from ((b % self.out_blocks, b) for b in range(used))

    def compress(self, x: Tensor) -> Tensor:
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
        n, n_out = self.blocks, self.out_blocks
        if n < n_out:
            y = torch.cat([y] * -(-n_out // n), dim=-2)
        elif n > n_out and self.surplus == "fold":
            missing = -n % n_out
            y = torch.nn.functional.pad(y, (0, 0, 0, missing)).unflatten(-2, (-1, n_out)).sum(-3)
        return y[..., :n_out, :].flatten(-2)[..., : self.out_features]

    def apply(self, x: Tensor, M: Tensor) -> Tensor:
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
        delta = M.new_zeros(self.out_features, self.in_features)
        return self.add_delta_(delta, M)

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
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
        cos, sin: Broadcastable to (..., q // 2).
    """
    half = x.shape[-1] // 2
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


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
) -> Grouped | Blocked:
    """Make the operator `name` for a layer. Any positive sizes work, also r_hat above either side.

    Args:
        name: One of `NAMES`.
        in_features, out_features: k and d of the layer.
        r_hat: Side of the square matrix, usually `square_size(...)`.
        in_groups, out_groups: `strided` or `contiguous`; used by sharing alone.
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
OFFICIAL_TYPES: dict[int, tuple[str, dict[str, str]]] = {
    1: ("sharing", {"in_groups": "strided", "out_groups": "strided"}),
    2: ("sharing", {"in_groups": "contiguous", "out_groups": "contiguous"}),
    3: ("sharing", {"in_groups": "contiguous", "out_groups": "strided"}),
    4: ("sharing", {"in_groups": "strided", "out_groups": "contiguous"}),
    6: ("rotation", {}),
}


def build_official(mora_type: int, in_features: int, out_features: int, r_hat: int) -> Grouped | Blocked:
    """The operator that equals `mora_type` 1, 2, 3, 4 or 6 of the authors' code.

    Raises:
        ValueError: Another type, or a size below one.
    """
    if mora_type not in OFFICIAL_TYPES:
        allowed = ", ".join(map(str, OFFICIAL_TYPES))
        raise ValueError(f"mora_type must be one of {allowed}, got {mora_type!r}")
    name, options = OFFICIAL_TYPES[mora_type]
    return build(name, in_features, out_features, r_hat, **options)
