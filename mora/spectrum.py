"""Singular values and numerical rank of an update dW (arXiv 2405.12130, Figure 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

THRESHOLD = 0.1  # Figure 5 counts the singular values above 0.1


def singular_values(delta: Tensor) -> Tensor:
    """The singular values of one update.

    Args:
        delta: (d, k).

    Returns:
        (min(d, k),), largest first, in float64 on the CPU.
    """
    return torch.linalg.svdvals(delta.detach().double().cpu())


def numerical_rank(delta: Tensor) -> int:
    """The rank of an update (d, k) in float64: the number of singular values above the tolerance of `matrix_rank`."""
    return int(torch.linalg.matrix_rank(delta.detach().double().cpu()))


def spectra(deltas: Iterable[tuple[str, Tensor]], threshold: float = THRESHOLD) -> dict[str, dict[str, float]]:
    """For each projection, how many singular values of its update exceed `threshold` (Figure 5).

    Args:
        deltas: (layer name, update of shape (d, k)) for each layer. The projection is the last part of the layer name.
        threshold: A singular value is counted if it is larger than this.

    Returns:
        For each projection a dictionary: "above" is the count of singular values above `threshold`, averaged over the
        layers; "largest" is the largest singular value, averaged over the layers; "layers" is the number of layers.
    """
    values_by_projection: dict[str, list[Tensor]] = defaultdict(list)
    for name, delta in deltas:
        values_by_projection[name.rsplit(".", 1)[-1]].append(singular_values(delta))
    return {
        projection: {
            "above": sum(int((s > threshold).sum()) for s in values) / len(values),
            "largest": sum(float(s[0]) for s in values) / len(values),
            "layers": len(values),
        }
        for projection, values in sorted(values_by_projection.items())
    }
