"""The order of training examples over several ranks: every global batch is the set that one process would take.

accelerate deals out batches in turn, so the ranks' shares of a step are together the next examples of one shuffled
order. Only the end of an epoch needs care: where examples run out it starts over, and counts some of them twice. Here
the order is filled up with rows on which no loss counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler

from ..data.rows import IGNORED


class Filled(Dataset[Any]):
    """Rows, and behind them so many blank ones that the length is a multiple of `multiple`."""

    def __init__(self, rows: Sequence[Any], multiple: int) -> None:
        self.rows, self.epoch = rows, 0
        self.length = -(-len(rows) // multiple) * multiple

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index < len(self.rows):
            return self.rows[index]
        return {"input_ids": torch.zeros(1, dtype=torch.long), "labels": torch.full((1,), IGNORED)}

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before a pass that a resumed run enters in the middle: it then misses the sampler."""
        self.epoch = epoch


class Order(Sampler[int]):
    """The order in which a single process would take the rows, then the blank ones.

    Not a random sampler itself, since accelerate puts one of its own in the place of those.
    """

    def __init__(self, filled: Filled, seed: int) -> None:
        self.filled = filled
        self.shuffled = SeedableRandomSampler(filled.rows, data_seed=seed, generator=torch.Generator())

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each other pass."""
        self.filled.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        self.shuffled.set_epoch(self.filled.epoch)
        yield from self.shuffled
        yield from range(len(self.filled.rows), len(self.filled))

    def __len__(self) -> int:
        return len(self.filled)
