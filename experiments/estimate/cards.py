"""Graphics cards: memory and speed, from the vendors' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

UTILISATION = 0.4  # the share of a card's peak FLOPS that large matrices often reach: an assumption, not measured


@dataclass(frozen=True)
class Card:
    """Memory in GiB, and peak TFLOPS of dense products in each number format; from the vendors' data sheets."""

    memory: float
    fp32: float
    bf16: float | None
    fp16: float


CARDS = {
    "T4": Card(16, 8.1, None, 65),
    "RTX 4090": Card(24, 82.6, 165, 165),
    "L40S": Card(48, 91.6, 362, 362),
    "A100 80 GB": Card(80, 19.5, 312, 312),
    "H100 SXM": Card(80, 67, 989, 989),
    "H200": Card(141, 67, 989, 989),
}
