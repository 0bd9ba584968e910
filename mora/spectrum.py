"""How high is the rank of an update? Singular values of dW (paper, Figure 5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

THRESHOLD = 0.1  # Figure 5 counts singular values above this


def singular_values(delta: Tensor) -> Tensor:
    """Singular values of one update (out, in), largest first, in float64 precision on the CPU."""
    return torch.linalg.svdvals(delta.detach().double().cpu())


def numerical_rank(delta: Tensor) -> int:
    """The number of singular values that are not rounding noise."""
    return int(torch.linalg.matrix_rank(delta.detach().double().cpu()))


def spectra(deltas: Iterable[tuple[str, Tensor]], threshold: float = THRESHOLD) -> dict[str, dict[str, float]]:
    """Figure 5: for each projection, how many singular values of its update exceed `threshold`.

    Args:
        deltas: (name of the layer, update of shape (out, in)); the projection is the last part of the name.
        threshold: What counts.

    Returns:
        {projection: {"above": mean count over layers, "largest": mean largest value, "layers": number of layers}}.
    """
    found = defaultdict(list)
    for name, delta in deltas:
        found[name.rsplit(".", 1)[-1]].append(singular_values(delta))
    return {
        projection: {
            "above": sum(int((s > threshold).sum()) for s in values) / len(values),
            "largest": sum(float(s[0]) for s in values) / len(values),
            "layers": len(values),
        }
        for projection, values in sorted(found.items())
    }
