"""The look-ups that conf/ uses: the protocol's learning rate and LoRA's alpha for a rank."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import OmegaConf

from .errors import ConfigError


def rates(table: Any, family: str, rank: int | None) -> dict[str, Any]:
    """The protocol's rates (`use`, `candidates`) for a method family at a rank; for one not listed, the nearest's."""
    if family not in table:
        raise ConfigError(f"the protocol lists no learning rate for {family}: set training.learning_rate")
    ranks = table[family]
    if type(rank) is not int or rank <= 0:
        nearest = min(ranks)
    else:
        nearest = min(ranks, key=lambda known: abs(math.log2(known / rank)) if known else math.inf)
    return ranks[nearest]


def _learning_rate(table: Any, family: str, rank: int | None) -> float | None:
    return None if family == "none" else rates(table, family, rank)["use"]


def _lora_alpha(table: Any, rank: Any) -> float | None:
    """The published alpha for a rank; 2 r, so a scale of 2, where none is published."""
    return table.get(rank, 2 * rank if type(rank) is int else None)


def register() -> None:
    """Teach OmegaConf the look-ups that conf/ uses."""
    OmegaConf.register_new_resolver("learning_rate", _learning_rate, replace=True)
    OmegaConf.register_new_resolver("lora_alpha", _lora_alpha, replace=True)
