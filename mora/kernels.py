"""The choice between torch and Triton for the two steps of a grouped operator that move the most bytes.

The two steps are the sum of each group of features (compress), and the addition of spread values to the features
(decompress and add). Both passes of training consist of these two steps and of products with M:

    forward:   sum of the inputs                    addition to the output
    backward:  sum of the gradient of the output    addition to the gradient of the input

torch needs a pass over the features for each segment of a grouping. A Triton kernel reads the features once, and the
addition reads and writes them once. Nobody has measured the kernels on a GPU so far, so they are off by default:

    from mora import kernels
    kernels.use_triton()

`scripts/gpu_check.py` measures both paths on a GPU.

Legend: k = number of features, q = r_hat, ``...`` = any leading dimensions.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from .factored import FeatureMap
from .grouped import Grouping

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # the kernels compute in float32

_triton: Any = None  # the module with the kernels while they are switched on


def use_triton(active: bool = True) -> None:
    """Switch the Triton kernels on or off for this process.

    The kernels take effect in training on CUDA, in float32, bfloat16 and float16, where `fused` computes the layer. All
    other cases use torch, as compiled models do.

    Args:
        active: Whether to use the kernels.

    Raises:
        ImportError: Triton is not installed. The extra `triton` installs it; torch for CUDA brings it.
    """
    global _triton
    _triton = importlib.import_module(".triton_kernels", __package__) if active else None


def sum_groups(features: FeatureMap, x: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., k) -> (..., q) in `dtype`, computed in the wider of the two dtypes."""
    if applies(features, x) and dtype in DTYPES:
        result: Tensor = _triton.sum_groups(features, x, dtype)
        return result
    # A grouping makes no copy of x in the wider dtype.
    return features.sum(x, torch.promote_types(x.dtype, dtype)).to(dtype)


def add_spread_(features: FeatureMap, out: Tensor, y: Tensor) -> Tensor:
    """``out += spread(y)`` in place. out: (..., k), contiguous. y: (..., q)."""
    if applies(features, out) and y.dtype in DTYPES:
        result: Tensor = _triton.add_spread_(features, out, y)
        return result
    return features.add_spread_(out, y)


def applies(features: FeatureMap, x: Tensor) -> bool:
    """Whether a Triton kernel sums the groups of a tensor like x, or adds to it."""
    if _triton is None or not isinstance(features, Grouping) or type(x) is not Tensor or x.dtype not in DTYPES:
        return False
    placed = x.is_cuda or (_triton.INTERPRETED and x.device.type == "cpu")
    return placed and features.r_hat < features.size and x.numel() > 0
