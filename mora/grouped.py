"""The grouped operators, truncation and sharing: features belong to r_hat groups (arXiv 2405.12130, Eq. 4-7).

A `Segment` describes some consecutive features and their groups. A `Grouping` is a list of segments that covers one
side of a layer. A `Grouped` operator has a grouping of the inputs and a grouping of the outputs.

Legend: k = in_features, d = out_features, q = r_hat, ``...`` = any leading dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .factored import Factored

CACHED = 2**17  # the size of a temporary tensor that stays in a core's cache: 131,072 float32 numbers, 0.5 MB


class Segment(NamedTuple):
    """Consecutive features that belong to consecutive groups: `repeat` features for each of `width` groups.

    Attributes:
        feature: The first feature.
        group: The first group.
        repeat: The number of features in each group.
        width: The number of groups.
        strided: The order of the features. True: neighbouring features belong to different groups (0 1 2 0 1 2).
            False: neighbouring features belong to the same group (0 0 1 1 2 2).
    """

    feature: int
    group: int
    repeat: int
    width: int
    strided: bool

    @property
    def features(self) -> slice:
        """The features of this segment, as a slice."""
        return slice(self.feature, self.feature + self.repeat * self.width)

    @property
    def groups(self) -> slice:
        """The groups of this segment, as a slice."""
        return slice(self.group, self.group + self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the folded features: (repeat, width) if strided, else (width, repeat)."""
        return (self.repeat, self.width) if self.strided else (self.width, self.repeat)

    def fold(self, x: Tensor) -> Tensor:
        """The features of this segment as a view with one axis of groups: (..., size) -> (..., *shape)."""
        return x[..., self.features].unflatten(-1, self.shape)

    def part(self, first: int, stop: int) -> list[Segment]:
        """The features of this segment that lie between `first` and `stop` (exclusive), as a list of segments.

        In the new segments feature 0 is the feature `first` of the layer.
        """
        begin, end = max(first, self.feature), min(stop, self.features.stop)
        # Both layouts repeat with a period: one feature of every group (strided), or all features of one group.
        period = self.width if self.strided else self.repeat
        segments = []
        while begin < end:
            offset = begin - self.feature
            phase = offset % period
            if phase or end - begin < period:  # a part of one period
                size = min(period - phase, end - begin)
                layout = (1, size, True) if self.strided else (size, 1, False)
                group = self.group + (phase if self.strided else offset // period)
            else:  # as many whole periods as fit
                periods = (end - begin) // period
                size = periods * period
                layout = (periods, self.width, True) if self.strided else (self.repeat, periods, False)
                group = self.group + (0 if self.strided else offset // period)
            segments.append(Segment(begin - first, group, *layout))
            begin += size
        return segments

    @property
    def repeat_axis(self) -> int:
        """The axis of `shape` with the features of one group, counted from the end. `sum` sums over this axis."""
        return -2 if self.strided else -1


@dataclass(frozen=True)
class Grouping:
    """A linear map that sums `size` features into `r_hat` groups.

    `spread` is the transpose of `sum`. The delta of a grouped operator is M, with its columns spread over the inputs
    and its rows spread over the outputs.

    Attributes:
        size: The number of features.
        r_hat: The number of groups.
        segments: The features and their groups. A feature that counts in several groups is in several segments.
    """

    size: int
    r_hat: int
    segments: tuple[Segment, ...]

    def sum(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(..., size) -> (..., r_hat), summed in `dtype` (default: the dtype of x). The result may be x itself."""
        first, *others = self.segments
        if first.width == self.size == self.r_hat:
            return x.to(dtype or x.dtype)
        if first.width == self.r_hat:
            total = first.fold(x).sum(first.repeat_axis, dtype=dtype)
        else:
            total, others = x.new_zeros(*x.shape[:-1], self.r_hat, dtype=dtype), [first, *others]
        for s in others:
            folded, axis = s.fold(x), s.repeat_axis
            total[..., s.groups] += folded.squeeze(axis) if s.repeat == 1 else folded.sum(axis, dtype=dtype)
        return total

    def spread(self, y: Tensor) -> Tensor:
        """(..., r_hat) -> (..., size)."""
        out, end = y.new_empty(*y.shape[:-1], self.size), 0  # features below `end` have a value
        for s in self.segments:
            if s.feature == end:
                s.fold(out).copy_(y[..., s.groups].unsqueeze(s.repeat_axis))
                end = s.features.stop
            else:  # the padding wraps around: these features have a value from an earlier segment
                s.fold(out).add_(y[..., s.groups].unsqueeze(s.repeat_axis))
        out[..., end:] = 0
        return out

    def part(self, first: int, stop: int) -> Grouping:
        """The same map, but only for the features from `first` to `stop` (exclusive)."""
        return Grouping(stop - first, self.r_hat, tuple(p for s in self.segments for p in s.part(first, stop)))

    def add_spread_(self, out: Tensor, y: Tensor, sign: float = 1.0) -> Tensor:
        """``out += sign * spread(y)`` in place, without a copy of ``spread(y)``. `out` and y may differ in dtype."""
        for s in self.segments:
            s.fold(out).add_(y[..., s.groups].unsqueeze(s.repeat_axis), alpha=sign)
        return out


def truncated(size: int, r_hat: int) -> Grouping:
    """Feature i belongs to group i. The features from r_hat on belong to no group (Eq. 5)."""
    return Grouping(size, r_hat, (Segment(0, 0, 1, min(size, r_hat), True),))


def strided(size: int, r_hat: int, wrap: bool) -> Grouping:
    """Feature i belongs to group ``i mod r_hat``.

    With `wrap` the features are first padded to a multiple of r_hat with the features from 0 on, as the authors' code
    does for the inputs. The first ``-size mod r_hat`` features then count in two groups.
    """
    full, rest = divmod(size, r_hat)
    segments = []
    if full:
        segments.append(Segment(0, 0, full, r_hat, True))
    if rest:
        segments.append(Segment(full * r_hat, 0, 1, rest, True))
    if rest and wrap:
        # The loop has more than one step only if r_hat exceeds twice the size. The padding then wraps several times.
        for group in range(rest, r_hat, size):
            segments.append(Segment(0, group, 1, min(size, r_hat - group), True))
    return Grouping(size, r_hat, tuple(segments))


def contiguous(size: int, r_hat: int) -> Grouping:
    """Each group consists of consecutive features. The first ``size mod r_hat`` groups have one feature more."""
    repeat, rest = divmod(size, r_hat)
    segments = []
    if rest:
        segments.append(Segment(0, 0, repeat + 1, rest, False))
    if repeat:
        segments.append(Segment(rest * (repeat + 1), rest, repeat, r_hat - rest, False))
    return Grouping(size, r_hat, tuple(segments))


@dataclass(frozen=True)
class Grouped(Factored):
    """A grouped operator: truncation (Eq. 4-5) or sharing (Eq. 6-7). ``delta[i, j] = M[group(i), group(j)]``.

    Attributes:
        name: `truncation` or `sharing`.
        inputs: The grouping of the k inputs.
        outputs: The grouping of the d outputs.
    """

    name: str
    inputs: Grouping
    outputs: Grouping

    def part(self, rows: slice, columns: slice) -> Grouped:
        """The operator whose delta is ``delta[rows, columns]``, where delta is the delta of this operator."""
        return Grouped(
            self.name, self.inputs.part(columns.start, columns.stop), self.outputs.part(rows.start, rows.stop)
        )

    def add_delta_(self, weight: Tensor, M: Tensor, sign: float = 1.0) -> Tensor:
        """``weight += sign * delta_weight(M)`` in place. M is broadcast over views of the weight, not copied.

        Each addition rounds to the dtype of the weight. A column of an input that `wrap` counts several times is
        rounded as many times, all others once.
        """
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
    """``weight += sign * delta`` in place. The delta repeats each column of `part` and spreads the rows over `outputs`.

    Each column of `part` occurs `repeat` times side by side. To broadcast over so few neighbours would be slow, so
    the repeated columns are copied to a temporary tensor, for as many rows at a time as the cache holds.

    Args:
        weight: (d, width * repeat).
        part: (q, width), some columns of M.
        repeat: The number of inputs in each group.
        outputs: The grouping of the d outputs.
        sign: 1.0 or -1.0.
    """
    chunk = max(1, CACHED // weight.shape[1])
    for s in outputs.segments:
        target = weight[s.features].unflatten(0, s.shape)
        for first in range(0, s.width, chunk):
            groups = slice(first, first + chunk)
            rows = part[s.groups][groups].repeat_interleave(repeat, dim=1)
            if s.strided:
                target[:, groups].add_(rows, alpha=sign)
            else:
                target[groups].add_(rows.unsqueeze(1), alpha=sign)
