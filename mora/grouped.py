"""Truncation and sharing: every feature belongs to one of r_hat groups (arXiv 2405.12130, Eq. 4-7).

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CACHED = 2**17  # so many numbers of a temporary stay in a core's cache: half a megabyte


class Segment(NamedTuple):
    """`repeat` features for each of `width` groups, laid out group-fastest (strided) or group-slowest."""

    feature: int
    group: int
    repeat: int
    width: int
    strided: bool

    @property
    def features(self) -> slice:
        """The features of this segment."""
        return slice(self.feature, self.feature + self.repeat * self.width)

    @property
    def groups(self) -> slice:
        """The groups they belong to."""
        return slice(self.group, self.group + self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """How the features of this segment fold: the axis of the groups and the axis of the repeats."""
        return (self.repeat, self.width) if self.strided else (self.width, self.repeat)

    def fold(self, x: Tensor) -> Tensor:
        """A view of the features of this segment: (..., size) -> (..., *shape)."""
        return x[..., self.features].unflatten(-1, self.shape)

    def part(self, first: int, stop: int) -> list[Segment]:
        """The features from `first` up to `stop` that are of this segment, as segments, numbered from 0 at `first`."""
        begin, end = max(first, self.feature), min(stop, self.features.stop)
        pieces = []
        while begin < end:
            done = begin - self.feature
            along, across = (self.width, 1) if self.strided else (self.repeat, self.repeat)
            within = done % along  # how far into a round of all groups, or into the run of one group
            if within or end - begin < along:
                size = min(along - within, end - begin)
                # The piece of a round is a feature each for some groups; the piece of a run, some features for one.
                shape = (1, size, True) if self.strided else (size, 1, False)
                group = self.group + (within if self.strided else done // across)
            else:
                rounds = (end - begin) // along
                size = rounds * along
                shape = (rounds, self.width, True) if self.strided else (self.repeat, rounds, False)
                group = self.group + (0 if self.strided else done // across)
            pieces.append(Segment(begin - first, group, *shape))
            begin += size
        return pieces

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

    def sum(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(..., size) -> (..., r_hat), added up and returned in `dtype`, by default that of x. May be x itself."""
        first, *others = self.segments
        if first.width == self.size == self.r_hat:
            return x.to(dtype or x.dtype)
        if first.width == self.r_hat:
            total = first.fold(x).sum(first.repeat_axis, dtype=dtype)
        else:
            total, others = x.new_zeros(*x.shape[:-1], self.r_hat, dtype=dtype), [first, *others]
        for s in others:
            folded = s.fold(x)
            alone = s.repeat == 1
            total[..., s.groups] += folded.squeeze(s.repeat_axis) if alone else folded.sum(s.repeat_axis, dtype=dtype)
        return total

    def spread(self, y: Tensor) -> Tensor:
        """(..., r_hat) -> (..., size)."""
        out, written = y.new_empty(*y.shape[:-1], self.size), 0
        for s in self.segments:
            # Segments follow one another, but for those that wrap around to features that have a value already.
            if s.feature == written:
                s.fold(out).copy_(y[..., s.groups].unsqueeze(s.repeat_axis))
                written = s.features.stop
            else:
                s.fold(out).add_(y[..., s.groups].unsqueeze(s.repeat_axis))
        out[..., written:] = 0
        return out

    def part(self, first: int, stop: int) -> Grouping:
        """The same map on the features from `first` up to `stop` alone: a slice of `spread`."""
        return Grouping(stop - first, self.r_hat, tuple(p for s in self.segments for p in s.part(first, stop)))

    def add_spread_(self, out: Tensor, y: Tensor, sign: float = 1.0) -> Tensor:
        """``out += sign * spread(y)`` in place, without building what is spread. `out` may have another dtype."""
        for s in self.segments:
            s.fold(out).add_(y[..., s.groups].unsqueeze(s.repeat_axis), alpha=sign)
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

    def part(self, rows: slice, columns: slice) -> Grouped:
        """The operator whose delta is ``delta[rows, columns]`` of this one."""
        return Grouped(
            self.name, self.inputs.part(columns.start, columns.stop), self.outputs.part(rows.start, rows.stop)
        )

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)``, in place; M is broadcast over views of the weight."""
        for s in self.inputs.segments:
            part = M[:, s.groups]
            if s.strided:
                self.outputs.add_spread_(s.fold(weight).movedim(0, -1), part.mT, sign)
            elif s.repeat == 1:
                self.outputs.add_spread_(weight[:, s.features].mT, part.mT, sign)
            else:
                _add_runs_(weight[:, s.features], part, s.repeat, self.outputs, sign)
        return weight


def _add_runs_(weight: Tensor, part: Tensor, repeat: int, outputs: Grouping, sign: float) -> None:
    """Add `part`, each of its columns `repeat` times in a row, and its rows as `outputs` spreads them.

    Runs of a few equal columns are too short to broadcast at speed: some rows of M at a time are written out.
    """
    at_once = max(1, CACHED // weight.shape[1])
    for s in outputs.segments:
        target = weight[s.features].unflatten(0, s.shape)
        for first in range(0, s.width, at_once):
            groups = slice(first, first + at_once)
            rows = part[s.groups][groups].repeat_interleave(repeat, dim=1)
            if s.strided:
                target[:, groups].add_(rows, alpha=sign)
            else:
                target[groups].add_(rows.unsqueeze(1), alpha=sign)
