"""The interface between the harness and a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ..spec.run_config import RunConfig


@dataclass(frozen=True)
class Prepared:
    """What a task hands to the trainer and, later, gets back to measure with.

    Attributes:
        train: Examples, each with `input_ids` and `labels`: two 1-d tensors of one length.
        data: Anything the task needs to measure.
        fingerprint: A hash of the data, for the record.
        notes: What the record's provenance says besides: versions of prompts and scorers, what was dropped.
        mean_length: Tokens of a training example, on average; None: counted from `train`.
    """

    train: Sequence[dict[str, Any]]
    data: Any
    fingerprint: str
    notes: dict[str, Any] = field(default_factory=dict)
    mean_length: float | None = None


class Task(Protocol):
    """One experiment of the paper."""

    name: ClassVar[str]
    version: ClassVar[int]  # raised whenever data, prompt or scorer change: it is part of a run's key
    headline: ClassVar[str]  # the metric to look at first
    paper_model: ClassVar[str]  # the model that the paper measured

    def prepare(self, config: RunConfig, tokenizer: Any) -> Prepared:
        """Build the examples. Deterministic in `config.seed`."""
        ...

    def baseline(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        """Metrics of the model before it trains, for the record."""
        ...

    def measure(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        """A point of the curve; cheap."""
        ...

    def evaluate(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        """The final metrics."""
        ...
