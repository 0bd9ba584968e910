"""What a protocol looks up by rank: learning rates, LoRA's scale, MoRA's operator.

The tables name the paper's ranks (`r8`, `r256`; `r128` in pretraining), and `protocol.ranks` says which rank stands for
each of them at the scale. So a scale that changes its ranks cannot forget a table, and no table repeats a rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .run_config import RunConfig

# Look-up of the configuration files -> the settings of the protocol that the look-up needs.
NEEDS = {
    "learning_rate": ("protocol.ranks", "protocol.learning_rates"),
    "lora_alpha": ("protocol.ranks", "protocol.lora_scale"),
}
USUAL_SCALE = 2  # alpha / rank of LoRA at ranks for which the paper gives no alpha


def rank_number(name: str) -> int:
    """`r256` -> 256."""
    return int(name.removeprefix("r"))


def own_rank(ranks: Mapping[str, int], paper_rank: int) -> int:
    """The rank that stands for a rank of the paper. A rank that is not listed is interpolated by logarithm."""
    if f"r{paper_rank}" in ranks:
        return ranks[f"r{paper_rank}"]
    if len(ranks) == 1:
        ((name, rank),) = ranks.items()
        return max(1, round(rank * paper_rank / rank_number(name)))
    names = sorted(ranks, key=rank_number)
    low, high = names[0], names[-1]
    position = math.log(paper_rank / rank_number(low)) / math.log(rank_number(high) / rank_number(low))
    return max(1, round(ranks[low] * (ranks[high] / ranks[low]) ** position))


def paper_rank(ranks: Mapping[str, int], rank: int | None) -> str | None:
    """The name of the paper's rank for which `rank` stands, such as `r256`; None if there is no such rank."""
    return next((name for name, own in ranks.items() if own == rank), None)


def nearest(ranks: Mapping[str, int], rank: Any) -> str:
    """The name of the paper's rank whose own rank is nearest to `rank` by logarithm; of two, the lower rank.

    A value that is no rank gets the lowest rank. The check of `method.rank` refuses such a value later.
    """
    rank = rank if _is_rank(rank) else min(ranks.values())
    return min(ranks, key=lambda name: (abs(math.log2(ranks[name] / rank)), ranks[name]))


def lowest_rank(ranks: Mapping[str, int]) -> int:
    """The rank of a run whose command line does not set `method.rank`."""
    return min(_checked_ranks(ranks).values())


def by_rank(table: Mapping[str, Any], ranks: Mapping[str, int], rank: Any) -> Any:
    """The entry of a table for the paper's rank that is nearest to `rank`."""
    return table[nearest(_checked_ranks(ranks), rank)]


def lora_alpha(protocol: Mapping[str, Any], rank: Any) -> float:
    """LoRA's alpha at a rank: the paper's scale at the paper's ranks, else `USUAL_SCALE`."""
    name = paper_rank(_checked_ranks(protocol["ranks"]), rank)
    if not _is_rank(rank):
        return USUAL_SCALE
    alpha = rank * (USUAL_SCALE if name is None else protocol["lora_scale"][name])
    return int(alpha) if alpha == int(alpha) else alpha


Grid = str | Mapping[str, Any]  # the name of a grid of the protocol, or {like: name, times: factor}


def _named(grid: Grid) -> tuple[str, float]:
    """The grid of the protocol that a grid is like, and the factor of its rates."""
    if isinstance(grid, str):
        return grid, 1.0
    if set(grid) != {"like", "times"} or not isinstance(grid["like"], str) or not _is_factor(grid["times"]):
        raise ConfigError(
            f"method.rates must be the name of a grid in protocol.learning_rates, or {{like: name, times: factor}}, "
            f"got {dict(grid)}"
        )
    return grid["like"], grid["times"]


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def rank_of_rates(protocol: Mapping[str, Any], grid: Grid, rank: Any) -> str | None:
    """The name of the paper's rank whose learning rates a rank has; None where the grid is the same for every rank.

    Raises:
        ConfigError: The protocol has no such grid, or the grid has no rank of the protocol.
    """
    grid, _ = _named(grid)
    table = protocol.get("learning_rates", {}).get(grid)
    if table is None:
        raise ConfigError(f"the protocol lists no learning rates for {grid}: set training.learning_rate")
    if not hasattr(table, "get") or "use" in table:
        return None
    ranks = {name: own for name, own in _checked_ranks(protocol["ranks"]).items() if name in table}
    if not ranks:
        raise ConfigError(f"protocol.learning_rates.{grid} has none of the ranks {', '.join(protocol['ranks'])}")
    return nearest(ranks, rank)


def rates(protocol: Mapping[str, Any], grid: Grid, rank: Any) -> dict[str, Any]:
    """The learning rates (`use`, `candidates`) of a grid at a rank, or else at the nearest rank.

    Raises:
        ConfigError: The protocol has no such grid, or the grid has another form.
    """
    name, (grid, times) = rank_of_rates(protocol, grid, rank), _named(grid)
    table = protocol["learning_rates"][grid]
    if name is not None:
        table = table[name]
    if not hasattr(table, "get") or "use" not in table or "candidates" not in table:
        raise ConfigError(f"protocol.learning_rates.{grid} must hold `use` and `candidates`, got {table}")
    if times == 1:
        return dict(table)
    return {"use": _times(table["use"], times), "candidates": [_times(rate, times) for rate in table["candidates"]]}


def _times(rate: float, factor: float) -> float:
    return float(f"{rate * factor:.6g}")  # 3e-4 times 3 is 0.0009, and not 0.0008999999999999999


def learning_rate(protocol: Mapping[str, Any], grid: Grid | None, rank: Any) -> float | None:
    """The learning rate of a run whose command line does not set it; None where nothing trains."""
    return None if grid is None else rates(protocol, grid, rank)["use"]


def borrowed(config: RunConfig) -> list[str]:
    """A line for each setting that a run takes from another rank, or that the paper does not give for its rank."""
    m, protocol = config.method, config.protocol
    if m.rank is None or m.rates is None:
        return []
    ranks, own = protocol["ranks"], paper_rank(protocol["ranks"], m.rank)
    lines = []
    if (grid := _named(m.rates)[0]) in protocol["learning_rates"]:
        lender, by = rank_of_rates(protocol, m.rates, m.rank), rates(protocol, m.rates, m.rank)["use"]
        if lender not in (None, own) and config.training.learning_rate == by:
            listed = ", ".join(str(ranks[name]) for name in ranks if name in protocol["learning_rates"][grid])
            lines.append(
                f"the learning rate {by:g} is that of rank {ranks[lender]}: the protocol has rates for the ranks "
                f"{listed}, not for {m.rank}"
            )
    if own:
        return lines
    near, listed = nearest(ranks, m.rank), ", ".join(map(str, ranks.values()))
    operator, allowed = m.setting("operator"), m.allowed.get("operator", [])
    if operator and len(allowed) > 1 and operator == protocol["operators"].get(near):
        lines.append(f"the operator {operator} is that of rank {ranks[near]}")
    if m.setting("alpha") == USUAL_SCALE * m.rank:
        lines.append(f"alpha is {USUAL_SCALE} x rank: the paper has an alpha for the ranks {listed} only")
    return lines


def _checked_ranks(ranks: Any) -> Mapping[str, int]:
    if not hasattr(ranks, "items") or not ranks or not all(type(r) is int and r > 0 for r in ranks.values()):
        raise ConfigError(f"protocol.ranks must be a rank for each rank of the paper, such as {{r8: 8}}, got {ranks}")
    return ranks


def _is_rank(rank: Any) -> bool:
    return type(rank) is int and rank > 0
