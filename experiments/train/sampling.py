"""The order of training examples over several ranks: every global batch holds the examples that one process would take.

accelerate gives the ranks their batches in turn, so the ranks' shares of a step are together the next examples of one
shuffled order. Only the end of an epoch needs care: if examples are missing there, accelerate repeats the first ones,
and some examples would count twice. Here padding rows, on which no loss counts, fill the last global batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler

from ..data.rows import IGNORED


class PaddedRows(Dataset[Any]):
    """Rows, and behind them so many padding rows that the length is a multiple of `multiple`."""

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
        """For accelerate, which does not call the sampler's method before an epoch that a resumed run continues."""
        self.epoch = epoch


class SingleProcessOrder(Sampler[int]):
    """The order in which a single process would take the rows, and then the padding rows.

    It is not a random sampler itself, because accelerate replaces random samplers by its own.
    """

    def __init__(self, padded: PaddedRows, seed: int) -> None:
        self.padded = padded
        self.shuffled = SeedableRandomSampler(padded.rows, data_seed=seed, generator=torch.Generator())

    def set_epoch(self, epoch: int) -> None:
        """For accelerate, which calls this before every other epoch."""
        self.padded.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        self.shuffled.set_epoch(self.padded.epoch)
        yield from self.shuffled
        yield from range(len(self.padded.rows), len(self.padded))

    def __len__(self) -> int:
        return len(self.padded)
