"""What a task declares, and the interface between a task and the harness."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..data import userfile
from ..errors import ConfigError
from ..spec import run_config
from ..spec.run_config import RunConfig


@dataclass(frozen=True)
class Metric:
    """A number that a task measures at the end of a run.

    Attributes:
        name: The name of the metric in records.
        label: The name of the metric in tables and figures.
        higher_is_better: Whether a higher value is a better one.
        unit: `%`, or empty where the label names the unit.
        questions: How many questions (for UUIDs: pairs) the metric averages over: a number, or the setting of the task
            that holds the number. None where only the data can tell.
        drawn: Whether each seed draws questions of its own. An interval over seeds knows such questions; it does not
            know questions that are the same for every seed.
        is_share: Whether a metric in percent is the share of its questions that were answered rightly, or a mean over
            them. If not, nobody knows what other questions would give.
        documents: The setting of the task that holds how many documents the metric averages over, the same documents
            for every seed; empty where there are none.
        floor: The value of the best answer that knows nothing of the question, in the unit of the metric. None where no
            such value is known. A record may hold a floor of its own, of its own data: the entry `<name>_floor` of its
            final metrics.
        floor_of: What gets the floor, in words.
        stands_for: The metric of the paper in whose place a smaller scale measures this metric; empty for a metric of
            the paper, and for a metric that the paper has no counterpart of.
    """

    name: str
    label: str
    higher_is_better: bool = True
    unit: str = "%"
    questions: int | str | None = None
    drawn: bool = False
    is_share: bool = True
    documents: str = ""
    floor: float | None = None
    floor_of: str = "a guess"
    stands_for: str = ""

    @property
    def has_fixed_questions(self) -> bool:
        """Whether the metric measures questions that are the same for every seed."""
        return self.unit == "%" and not self.drawn

    def question_count(self, settings: run_config.TaskSettings) -> int | None:
        """How many questions a run with these settings asks for this metric; None where only the data can tell."""
        return getattr(settings, self.questions) if isinstance(self.questions, str) else self.questions


@dataclass(frozen=True)
class Criterion:
    """What selects the learning rate of a cell.

    Attributes:
        metric: A final metric, or a metric of the curve; None: the training loss, a mean over the last tenth of the
            steps.
        label: The number that is compared, in words.
        is_mean: Whether the number is the mean of the curve over the training, and not the value at the end.
        higher_is_better: Whether the rate with the highest number is selected.
    """

    metric: str | None
    label: str
    is_mean: bool = False
    higher_is_better: bool = False


def numbers(values: Any, where: str) -> dict[str, float]:
    """What a function of a task returned, with Python's numbers in place of those of numpy and torch.

    Args:
        values: What the function returned.
        where: The function, for an error.

    Raises:
        TypeError: The function returned something else than numbers by name.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{where} must return metrics by name, and returned a {type(values).__name__}")
    found = {}
    for name, value in values.items():
        number = value.item() if getattr(value, "shape", None) == () else value  # of numpy or torch
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise TypeError(f"{where}: {name} must be a number, and is a {type(value).__name__}")
        found[name] = number
    return found


def examples_taken(count: int, batch_size: int, steps: int) -> int:
    """How many examples a training takes, of data with `count` examples: the last batch of each pass may be smaller."""
    passes, rest = divmod(steps, math.ceil(count / batch_size))
    return passes * count + rest * batch_size


@dataclass(frozen=True)
class TaskData:
    """What a task trains and measures on in one run.

    Attributes:
        train: Examples, each with `input_ids` and `labels`: two 1-d tensors of the same length.
        evaluation: What the task measures on, in a form of its own.
        fingerprint: A hash of the data, for the record.
        notes: Further entries of the record's provenance: versions of prompts and scorers, how much was left out.
        mean_length: Mean number of tokens of a training example; None: the harness counts the tokens of `train`.
    """

    train: Sequence[dict[str, Any]]
    evaluation: Any
    fingerprint: str
    notes: dict[str, Any] = field(default_factory=dict)
    mean_length: float | None = None


class Task(ABC):
    """What trains, on which tokens the loss counts, what is measured.

    Attributes:
        name: The name of the task: that of its file here and of `conf/task/<name>.yaml`.
        version: Part of the key of every run. Raise it when data, prompts or scorers change.
        needs: The settings of the section `task` that must have a value.
        metrics: What a run measures at its end, in the order of the columns of a table. A record holds numbers beside
            these (`<metric>_before`, `<metric>_lm_eval`, `<metric>_f1`, `<metric>_floor`, `<metric>_questions`,
            `<metric>_cut`), which no column shows. `metrics_of` says which metrics are compared, for certain settings.
        headline: The metric of the paper that matters most. Smaller scales measure its stand-ins.
        selection: The final metric by which learning rates are selected; None: the training loss.
        curve_selection: The metric of the curve whose mean over the training selects the learning rate for everything
            that is read during the training. The rate that ends best need not be the one that learns soonest. None:
            `selection` selects for this too.
        paper_model: The model that the paper ran this task on; empty for a task that the paper does not have.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    headline: ClassVar[str]
    selection: ClassVar[str | None] = None
    curve_selection: ClassVar[str | None] = None
    paper_model: ClassVar[str] = "LLaMA-2 7B"

    def metric(self, name: str) -> Metric:
        """The metric of this name.

        Raises:
            KeyError: The task declares no such metric.
        """
        return {metric.name: metric for metric in self.metrics}[name]

    def metrics_of(self, settings: run_config.TaskSettings) -> tuple[Metric, ...]:
        """What is compared of runs with these settings: `metrics`, unless its settings add or remove some."""
        return self.metrics

    def criterion(self, *, in_training: bool = False) -> Criterion:
        """What selects the learning rate for values at the end, or for values that are read during the training."""
        if in_training and self.curve_selection:
            metric = self.metric(self.curve_selection)
            label = f"mean {metric.label} over the training"
            return Criterion(metric.name, label, is_mean=True, higher_is_better=metric.higher_is_better)
        if self.selection is None:
            return Criterion(None, "training loss")
        metric = self.metric(self.selection)
        return Criterion(metric.name, metric.label, higher_is_better=metric.higher_is_better)

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The metrics that smaller scales measure in place of the headline; claims are decided by the first."""
        return tuple(metric.name for metric in self.metrics if metric.stands_for == self.headline)

    @property
    def headlines(self) -> tuple[str, ...]:
        """The headline and its stand-ins: the first of them that a record holds is the one to look at."""
        return self.headline, *self.stand_ins

    def row_tokens(self, config: RunConfig) -> int:
        """Tokens of the longest training row, at most.

        Raises:
            ConfigError: The settings of the task do not say the number.
        """
        if config.task.max_length is None:
            raise ConfigError(f"task.max_length is missing; task={self.name} has no row_tokens that knows it otherwise")
        return config.task.max_length

    def sequence_tokens(self, config: RunConfig) -> int:
        """Tokens of the longest sequence that the model sees, at most: a row, or a prompt with its generated answer."""
        return self.row_tokens(config)

    def ratios(self, config: RunConfig, parameters: int) -> dict[str, float]:
        """Ratios of a run that only the task knows, by name: a smaller scale keeps those of the paper.

        Args:
            config: The run.
            parameters: How many parameters the adapter has, or the model where nothing is adapted.
        """
        return {}

    def check(self, config: RunConfig) -> None:  # noqa: B027 (most tasks have nothing to refuse)
        """Refuse settings of the task that do not fit one another, before anything is loaded.

        Raises:
            ConfigError: Two settings do not fit, or a setting has a value that this task does not know.
        """

    def contents(self, config: RunConfig) -> dict[str, str]:
        """What is in the files that the settings name, as hashes: part of a run's identity, under these names.

        Raises:
            ConfigError: A file cannot be read, or a line is wrong.
        """
        t = config.task
        hashes = {"data": userfile.checked(t.train_file, userfile.TRAIN, t.prompt) if t.train_file else ""}
        if t.heldout_file:  # without such a file the identity has no such entry, as before there was the setting
            hashes["heldout"] = userfile.checked(t.heldout_file, userfile.HELD_OUT, t.prompt)
        return hashes

    @abstractmethod
    def prepare(self, config: RunConfig, tokenizer: Any) -> TaskData:
        """Build the data of a run. The same configuration and tokenizer always give the same data."""

    def baseline(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        """Measure the model before it trains, for the record. Nothing, where a model without training knows nothing."""
        return {}

    @abstractmethod
    def measure(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        """Measure a point of the curve. This runs many times in a run, so it must be cheap."""

    @abstractmethod
    def evaluate(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        """Measure all metrics, at the end of a run."""


def measured(
    function: Callable[[Any, Any, TaskData], dict[str, float]], model: Any, tokenizer: Any, data: TaskData
) -> dict[str, float]:
    """What `baseline`, `measure` or `evaluate` of a task returns, checked by `numbers`."""
    return numbers(function(model, tokenizer, data), f"{function.__name__} of the task")
