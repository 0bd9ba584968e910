"""The fine-tuning tasks: one way to prepare data and to measure, which each task fills in.

A task says where its training items, its held-out items and its benchmarks come from (`material`). `AnswerTask` is for
tasks that train on conversations and learn the answers, `TextTask` for tasks that train on plain text.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..data import corpora, hub, overlap, prompts, questions, reading, sources, userfile
from ..data.prompts import Message, encode, prompt_of
from ..data.questions import Benchmark, ChoiceQuestion
from ..data.rows import Rows, fingerprint
from ..data.windows import packed
from ..errors import ConfigError
from ..measure import scorers
from ..measure.evaluation import Answers, Loss, ask
from ..spec import ranks, run_config
from ..spec.run_config import RunConfig
from .base import Metric, Task, TaskData

LEAST_TRAINED = 0.5  # of the training rows; a run on fewer is refused
CURVE_ROWS = 8  # a point of the curve measures so many held-out rows
PROBE_WINDOW = 512  # tokens of a window of general text

GENERAL_PERPLEXITY = Metric(
    "general_perplexity", "perplexity of general text", higher_is_better=False, unit="", documents="probe_documents"
)


def answer_bits_per_byte(stands_for: str) -> Metric:
    """The metric by which an `AnswerTask` judges a model that is too small for the benchmarks."""
    label = "bits per byte of held-out answers"
    return Metric(
        "answer_bits_per_byte", label, higher_is_better=False, unit="", documents="heldout_rows", stands_for=stands_for
    )


def choice(name: str, label: str, options: int, *, questions: int | str = "questions", stands_for: str = "") -> Metric:
    """The share of questions with so many options that a model answers rightly; the other arguments as in `Metric`.

    The declared floor is that of a guess. A record holds the floor of its own questions (`FineTuning.floor`).
    """
    floor_of = "the best answer that is always the same"
    return Metric(name, label, questions=questions, floor=100 / options, floor_of=floor_of, stands_for=stands_for)


def heldout_perplexity(stands_for: str) -> Metric:
    """The metric by which a `TextTask` judges a model that is too small for the benchmarks."""
    label = "held-out perplexity"
    return Metric(
        "heldout_perplexity", label, higher_is_better=False, unit="", documents="heldout_rows", stands_for=stands_for
    )


def trained_perplexity(stands_for: str) -> Metric:
    """The metric by which a `TextTask` judges what a model remembers of the text that it trained on."""
    label = "perplexity of the trained text"
    return Metric("trained_perplexity", label, higher_is_better=False, unit="", stands_for=stands_for)


@dataclass(frozen=True)
class Document:
    """A text to train on.

    Attributes:
        text: The text.
        title: The title of the text, if it has one.
        questions: Questions that come with the text, and their answers.
    """

    text: str
    title: str = ""
    questions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """What a fine-tuning task trains and measures on, before it is tokenised.

    Attributes:
        train: The training items: conversations or documents. They may be streamed.
        held_out: Conversations or texts whose loss is measured.
        benchmarks: Questions for lm-eval.
        question_texts: The questions of the benchmarks, for the fingerprint.
        benchmark_texts: The questions of the benchmarks with their answers. No training item may overlap with them.
    """

    train: Iterable[Any]
    held_out: Sequence[Any]
    benchmarks: Sequence[Benchmark]
    question_texts: Sequence[str]
    benchmark_texts: Sequence[str]

    @classmethod
    def of_texts(cls, train: Iterable[Document], held_out: list[str], benchmarks: Sequence[Benchmark]) -> Material:
        """The material of a `TextTask`."""
        question_texts = [question.prompt for benchmark in benchmarks for question in benchmark.questions]
        return cls(train, held_out, benchmarks, question_texts, question_texts)


@dataclass(frozen=True)
class EvaluationSet:
    """What a task measures on.

    Attributes:
        rows: Held-out rows of the same kind as the training rows.
        text_bytes: UTF-8 length of the text of `rows` on which the loss counts.
        general: Windows of general text, for the forgetting probe.
        trained: Of plain text, as many of the training rows as there are held-out rows: what the model remembers.
        benchmarks: Questions for lm-eval.
        batch_size: How many questions lm-eval puts to the model at once.
    """

    rows: Rows
    text_bytes: int
    general: Rows = field(default_factory=lambda: Rows.of([]))
    trained: Rows = field(default_factory=lambda: Rows.of([]))
    benchmarks: Sequence[Benchmark] = ()
    batch_size: int = 1


def general_text(config: RunConfig) -> list[str]:
    """Held-out C4 documents: the first `task.probe_documents`."""
    count = config.task.probe_documents or 0
    if not count:
        return []
    if config.task.data == "hub":
        return [text for _, text in zip(range(count), hub.c4("validation", config.task.data_dir), strict=False)]
    return corpora.c4(config.paths.cache_folder)[1][:count]


def origins(config: RunConfig, packages: Sequence[str], data_sets: tuple[str, ...]) -> list[str]:
    """Where the data come from, for the record: pinned packages or the hub, and the user's files if there are any."""
    t = config.task
    names = hub.origins(data_sets, t.data_dir) if t.data == "hub" else sources.pins(*packages)
    own = {userfile.TRAIN: t.train_file, userfile.HELD_OUT: t.heldout_file}
    return [*names, *(setting for setting, file in own.items() if file)]


class FineTuning(Task):
    """A task that fine-tunes a pretrained model.

    Attributes:
        packages: The sources (`data.catalogue`) that the task reads with `task.data=packages`.
        data_sets: The data sets of the hub that the task reads with `task.data=hub`, beside C4 for the general text.
        scorers: The scorers that the task uses; the record holds their versions.
        loss: The metric that is a loss on held-out items. It is measured at every scale, and before training too.
    """

    needs: ClassVar[tuple[str, ...]] = ("max_length", "heldout_rows")
    packages: ClassVar[tuple[str, ...]]
    data_sets: ClassVar[tuple[str, ...]]
    scorers: ClassVar[tuple[str, ...]] = ()
    loss: ClassVar[str]

    # What a task fills in.

    @abstractmethod
    def material(self, config: RunConfig) -> Material:
        """Training items, held-out items and benchmarks, from packages or from the hub as `task.data` says."""

    # What the two kinds of task fill in.

    @abstractmethod
    def items_of_file(self, settings: run_config.TaskSettings) -> list[Any]:
        """The training items in the user's file, `task.train_file`."""

    @abstractmethod
    def heldout_of_file(self, settings: run_config.TaskSettings) -> list[Any]:
        """The held-out items in the user's file, `task.heldout_file`."""

    @abstractmethod
    def text(self, item: Any) -> str:
        """The text of a training item or of a held-out item, to compare the two."""

    @abstractmethod
    def examples(self, items: list[Any], general: list[str], config: RunConfig) -> list[Any]:
        """The training items in the form in which they are tokenised."""

    @abstractmethod
    def training_rows(self, examples: list[Any], tokenizer: Any, config: RunConfig) -> Rows:
        """The rows that train."""

    @abstractmethod
    def heldout_rows(self, held_out: Sequence[Any], tokenizer: Any, config: RunConfig) -> tuple[Rows, int]:
        """The held-out rows, and the UTF-8 length of the text on which their loss counts."""

    def left_out(self, train: tuple[int, int], held_out: tuple[int, int], config: RunConfig) -> dict[str, Any]:
        """How many items are used and how many are too long, for the record; nothing where no item is left out.

        Args:
            train: The number of training items, and of their rows.
            held_out: The same of the held-out items.
            config: The run.

        Raises:
            ConfigError: Too few training items are used.
        """
        return {}

    def remembered_rows(self, train: Rows, count: int) -> Rows:
        """The training rows whose loss is measured after the training too: none, unless a task says so."""
        return train[:0]

    @abstractmethod
    def heldout_loss(self, model: Any, data: EvaluationSet) -> float:
        """The metric `loss`."""

    @abstractmethod
    def form_version(self, settings: run_config.TaskSettings) -> dict[str, str]:
        """The version of the form of the training items, for the record."""

    # What all fine-tuning tasks do alike.

    def prepare(self, config: RunConfig, tokenizer: Any) -> TaskData:
        t, material, general = config.task, self.material(config), general_text(config)
        held_out = self.heldout_of_file(t)[: t.heldout_rows] if t.heldout_file else material.held_out
        items, counts = overlap.filtered(
            self.name,
            self.items_of_file(t) if t.train_file else material.train,
            self.text,
            [*map(self.text, held_out), *material.benchmark_texts, *general],
            t.drop_overlap,
            t.train_rows,
        )
        examples = self.examples(items, general, config)
        rows, text_bytes = self.heldout_rows(held_out, tokenizer, config)
        if not len(rows):
            raise ConfigError(f"task.max_length: no held-out row has at most {t.max_length} tokens")
        probe = packed(general, tokenizer, PROBE_WINDOW, config.paths.cache_folder, keep_rest=True)
        versions = {"scorers": {name: scorers.VERSIONS[name] for name in self.scorers}} if self.scorers else {}
        train = self.training_rows(examples, tokenizer, config)
        left_out = self.left_out((len(examples), len(train)), (len(held_out), len(rows)), config)
        trained = self.remembered_rows(train, len(rows))
        return TaskData(
            train,
            EvaluationSet(rows, text_bytes, probe, trained, material.benchmarks, t.eval_batch_size or 1),
            fingerprint(examples, held_out, material.question_texts, general),
            {
                **self.form_version(t),
                "questions": questions.VERSION,
                **versions,
                "overlap": counts,
                **left_out,
                "sources": origins(config, self.packages, (*self.data_sets, *([hub.C4] if general else []))),
            },
        )

    def baseline(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        evaluation: EvaluationSet = data.evaluation
        metrics = {f"{self.loss}_before": self.heldout_loss(model, evaluation)}
        if len(evaluation.general):
            metrics["general_perplexity_before"] = Loss.of(model, evaluation.general).perplexity
        return metrics

    def measure(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        return {"heldout_loss": Loss.of(model, data.evaluation.rows[:CURVE_ROWS]).mean}

    def evaluate(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        evaluation: EvaluationSet = data.evaluation
        metrics = {self.loss: self.heldout_loss(model, evaluation)}
        if len(evaluation.general):
            metrics["general_perplexity"] = Loss.of(model, evaluation.general).perplexity
        answers = ask(model, tokenizer, evaluation.benchmarks, evaluation.batch_size)
        for benchmark in evaluation.benchmarks:
            if benchmark.name in answers:
                metrics |= self.score(benchmark, answers[benchmark.name], tokenizer) | self.floor(benchmark)
                if answers[benchmark.name].cut:
                    metrics[f"{benchmark.name}_cut"] = answers[benchmark.name].cut
        return metrics

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        """The metrics of one benchmark, in percent, by name."""
        return {benchmark.name: 100 * answers.lm_eval}

    def floor(self, benchmark: Benchmark) -> dict[str, float]:
        """What a model reaches that always gives the same answer, where the metric has a floor and asks for a choice.

        The commonest answer may be right far more often than a guess is: half of Reuters' news are about earnings.
        """
        declared = {metric.name: metric.floor for metric in self.metrics}
        if declared.get(benchmark.name) is None or not isinstance(benchmark.questions[0], ChoiceQuestion):
            return {}
        commonest = Counter(question.gold for question in benchmark.questions).most_common(1)[0][1]
        return {f"{benchmark.name}_floor": 100 * commonest / len(benchmark.questions)}


class AnswerTask(FineTuning):
    """A task that trains on conversations in a prompt, `task.prompt`. The loss counts on the answers only."""

    needs: ClassVar[tuple[str, ...]] = ("prompt", *FineTuning.needs)
    loss = "answer_bits_per_byte"

    def items_of_file(self, settings: run_config.TaskSettings) -> list[Any]:
        assert settings.train_file and settings.prompt
        return userfile.conversations(settings.train_file, settings.prompt)

    def heldout_of_file(self, settings: run_config.TaskSettings) -> list[Any]:
        assert settings.heldout_file and settings.prompt
        return userfile.conversations(settings.heldout_file, settings.prompt, userfile.HELD_OUT)

    def check(self, config: RunConfig) -> None:
        if config.task.prompt not in prompts.PUBLISHED:
            allowed = ", ".join(prompts.PUBLISHED)
            raise ConfigError(f"task.prompt must be one of {allowed} for task={self.name}, got {config.task.prompt!r}")

    def text(self, item: Sequence[Message]) -> str:
        return prompts.plain(item)

    def examples(self, items: list[Any], general: list[str], config: RunConfig) -> list[Any]:
        return items

    def training_rows(self, examples: list[Any], tokenizer: Any, config: RunConfig) -> Rows:
        t = config.task
        assert t.prompt and t.max_length
        return prompts.supervised(examples, t.prompt, tokenizer, t.max_length, config.paths.cache_folder)

    def left_out(self, train: tuple[int, int], held_out: tuple[int, int], config: RunConfig) -> dict[str, Any]:
        check_trained(*train, config)
        used, longest = {"train": train, "heldout": held_out}, f"{config.task.max_length} tokens (task.max_length)"
        reasons = {
            "train": f"rows train; in the others no answer begins within {longest}",
            "heldout": f"held-out rows are measured; the others are longer than {longest}",
        }
        for name, (items, n) in used.items():
            if n < items and ranks.first():
                print(f"{self.name}: {n} of {items} {reasons[name]}", file=sys.stderr)
        return {"rows": {name: {"used": n, "too_long": items - n} for name, (items, n) in used.items()}}

    def heldout_rows(self, held_out: Sequence[Any], tokenizer: Any, config: RunConfig) -> tuple[Rows, int]:
        t = config.task
        assert t.prompt and t.max_length
        return answer_rows(held_out, t.prompt, tokenizer, t.max_length)

    def heldout_loss(self, model: Any, data: EvaluationSet) -> float:
        return Loss.of(model, data.rows).bits / data.text_bytes

    def form_version(self, settings: run_config.TaskSettings) -> dict[str, str]:
        assert settings.prompt
        return {"prompt": prompts.VERSIONS[settings.prompt]}


class TextTask(FineTuning):
    """A task that trains on the texts of a domain in reading-comprehension form, cut into full windows.

    Attributes:
        domain: The domain in the questions about a text.
        averaged: The benchmarks of the paper. Their mean is the headline.
    """

    loss = "heldout_perplexity"
    domain: ClassVar[str]
    averaged: ClassVar[tuple[str, ...]]

    def items_of_file(self, settings: run_config.TaskSettings) -> list[Any]:
        assert settings.train_file
        return [Document(text) for text in userfile.documents(settings.train_file)]

    def heldout_of_file(self, settings: run_config.TaskSettings) -> list[Any]:
        assert settings.heldout_file
        return userfile.documents(settings.heldout_file, userfile.HELD_OUT)

    def text(self, item: Document | str) -> str:
        return item if isinstance(item, str) else item.text

    def examples(self, items: list[Any], general: list[str], config: RunConfig) -> list[Any]:
        vocabulary = reading.keywords([document.text for document in items], general)
        return [
            reading.comprehension(
                document.text,
                config.seed,
                self.domain,
                title=document.title,
                vocabulary=vocabulary,
                own_questions=document.questions,
            )
            for document in items
        ]

    def training_rows(self, examples: list[Any], tokenizer: Any, config: RunConfig) -> Rows:
        assert config.task.max_length
        return packed(examples, tokenizer, config.task.max_length, config.paths.cache_folder)

    def heldout_rows(self, held_out: Sequence[Any], tokenizer: Any, config: RunConfig) -> tuple[Rows, int]:
        return text_rows(list(held_out), tokenizer, config)

    def remembered_rows(self, train: Rows, count: int) -> Rows:
        return train[:count]

    def heldout_loss(self, model: Any, data: EvaluationSet) -> float:
        return Loss.of(model, data.rows).perplexity

    def form_version(self, settings: run_config.TaskSettings) -> dict[str, str]:
        return {"reading": reading.VERSION}

    def evaluate(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        metrics = super().evaluate(model, tokenizer, data)
        metrics["trained_perplexity"] = Loss.of(model, data.evaluation.trained).perplexity
        if all(name in metrics for name in self.averaged):
            metrics[self.headline] = sum(metrics[name] for name in self.averaged) / len(self.averaged)
        return metrics


def check_trained(rows: int, trained: int, config: RunConfig) -> None:
    """Refuse a run that trains on few of its rows, because the others are too long.

    Raises:
        ConfigError: Fewer than `LEAST_TRAINED` of the rows train.
    """
    if trained < LEAST_TRAINED * rows:
        raise ConfigError(
            f"task.max_length: only {trained} of {rows} rows have an answer that begins within "
            f"{config.task.max_length} tokens; at least {LEAST_TRAINED:.0%} must: raise task.max_length, or leave out "
            "long rows"
        )


def answer_rows(
    conversations: Sequence[Sequence[Message]], name: str, tokenizer: Any, max_length: int
) -> tuple[Rows, int]:
    """Rows whose loss counts on the texts of the answers, and the UTF-8 length of these texts.

    The loss does not count on end tokens, which have no text. A conversation of more than `max_length` tokens is left
    out, so that no answer is cut.
    """
    rows, size, prompt = [], 0, prompt_of(name, tokenizer)
    for messages in conversations:
        transcript = prompt.transcribe(messages, "")
        ids, counted = encode(transcript, tokenizer, max_length + 1)
        if len(ids) <= max_length and any(counted):
            rows.append((ids, counted))
            size += sum(len(transcript.text[first:last].encode()) for first, last in transcript.spans)
    return Rows.of(rows), size


def text_rows(texts: list[str], tokenizer: Any, config: RunConfig) -> tuple[Rows, int]:
    """Windows of `task.max_length` tokens that hold the whole of the texts, and the UTF-8 length of the texts."""
    assert config.task.max_length
    rows = packed(texts, tokenizer, config.task.max_length, config.paths.cache_folder, keep_rest=True)
    return rows, sum(len(text.encode()) for text in texts)


def likeliest_per_token(benchmark: Benchmark, answers: Answers, tokenizer: Any) -> list[int]:
    """AdaptLLM's rule: for each question, the choice whose tokens have the highest mean log-likelihood."""
    chosen = []
    for question, likelihoods in zip(benchmark.questions, answers.likelihoods, strict=True):
        # As lm-eval counts the tokens of a choice: those that the choice adds to the tokens of the prompt.
        prompt = len(tokenizer.encode(question.prompt))
        lengths = [len(tokenizer.encode(f"{question.prompt} {choice}")) - prompt for choice in question.choices]
        means = [likelihood / max(1, length) for likelihood, length in zip(likelihoods, lengths, strict=True)]
        chosen.append(means.index(max(means)))
    return chosen
