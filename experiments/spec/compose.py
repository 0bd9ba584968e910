"""The look-ups that conf/ uses: the protocol's learning rate and LoRA's alpha for a rank."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError


def rates(table: Any, family: str, rank: int | None) -> dict[str, Any]:
    """The protocol's rates (`use`, `candidates`) for a method family at a rank; for one not listed, the nearest's."""
    ranks = table.get(family) if hasattr(table, "get") else None
    if not ranks:
        raise ConfigError(f"the protocol lists no learning rate for {family}: set training.learning_rate")
    if not hasattr(ranks, "items") or not all(_is_number(r) and hasattr(entry, "items") for r, entry in ranks.items()):
        raise ConfigError(f"protocol.learning_rates.{family} must be ranks with `use` and `candidates`, got {ranks}")
    if type(rank) is not int or rank <= 0:
        nearest = min(ranks)
    else:
        nearest = min(ranks, key=lambda known: abs(math.log2(known / rank)) if known else math.inf)
    return ranks[nearest]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _learning_rate(table: Any, family: str, rank: int | None) -> float | None:
    return None if family == "none" else rates(table, family, rank).get("use")


def _lora_alpha(table: Any, rank: Any) -> float | None:
    """The published alpha for a rank; 2 r, so a scale of 2, where none is published or the table is null."""
    if table is None:
        table = {}
    if not hasattr(table, "get"):
        raise ConfigError(f"protocol.lora_alpha must be an alpha for each rank, got {table}")
    return table.get(rank, 2 * rank if type(rank) is int else None)


def register() -> None:
    """Teach OmegaConf the look-ups that conf/ uses."""
    OmegaConf.register_new_resolver("learning_rate", _learning_rate, replace=True)
    OmegaConf.register_new_resolver("lora_alpha", _lora_alpha, replace=True)


CONF = Path(__file__).parent.parent.parent / "conf"


def composition(arguments: list[str]) -> DictConfig:
    """What run.py composes from these arguments, open for changes."""
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("config", overrides=["logger=none", *arguments])
    OmegaConf.set_struct(composed, False)
    return composed
