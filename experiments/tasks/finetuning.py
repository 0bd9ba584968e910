"""What the fine-tuning tasks measure alike: loss before and after, forgetting, benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data import corpora, hub, prompts, sources
from ..data.prompts import FORMS, Message, encode
from ..data.questions import Benchmark
from ..data.rows import Rows, fingerprint
from ..data.windows import packed
from ..measure.evaluation import Answers, Loss, ask
from ..measure.scorers import per_token_choice
from ..spec.run_config import RunConfig
from .base import Prepared

ON_THE_WAY = 8  # held-out rows that a point of the curve looks at
PROBE_WINDOW = 512


@dataclass(frozen=True)
class HeldOut:
    """What a task measures on.

    Attributes:
        rows: Held-out rows of the task's own kind.
        text_bytes: UTF-8 length of the text on which their loss counts.
        general: Windows of general text, for the forgetting probe.
        benchmarks: Questions for lm-eval.
        batch_size: Of the benchmarks.
    """

    rows: Rows
    text_bytes: int
    general: Rows
    benchmarks: Sequence[Benchmark]
    batch_size: int


def general_text(config: RunConfig) -> list[str]:
    """Held-out C4 documents: the first `task.probe_documents`."""
    count = config.task.probe_documents or 0
    if config.task.data == "hub":
        return [text for _, text in zip(range(count), hub.c4("validation"), strict=False)]
    return corpora.c4(config.paths.cache_folder)[1][:count]


def origins(config: RunConfig, *packaged: str) -> list[str]:
    """Where the data come from, for the record: pinned packages or the hub, and the user's file if there is one."""
    found = ["hub"] if config.task.data == "hub" else sources.pins(*packaged)
    return [*found, "task.train_file"] if config.task.train_file else found


def on_conversations(
    config: RunConfig,
    tokenizer: Any,
    train: Sequence[Sequence[Message]],
    held_out: Sequence[Sequence[Message]],
    general: list[str],
    benchmarks: Sequence[Benchmark],
    asked: Sequence[str],
    notes: dict[str, Any],
) -> Prepared:
    """What a task trains and measures on that learns the answers of conversations.

    Args:
        config: Of the run.
        tokenizer: Of its model.
        train: Conversations in the form of `task.prompt`.
        held_out: Conversations whose answers' loss is measured.
        general: Documents for the forgetting probe.
        benchmarks: Questions for lm-eval.
        asked: Their texts, for the fingerprint.
        notes: For the record's provenance.
    """
    t = config.task
    assert t.prompt and t.max_length
    rows, size = answers(held_out, t.prompt, tokenizer, t.max_length)
    return Prepared(
        prompts.supervised(train, t.prompt, tokenizer, t.max_length, config.paths.cache_folder),
        _held_out(config, tokenizer, rows, size, general, benchmarks),
        fingerprint(train, held_out, asked, general),
        {"prompt": prompts.VERSIONS[t.prompt], **notes},
    )


def on_text(
    config: RunConfig,
    tokenizer: Any,
    train: list[str],
    held_out: list[str],
    general: list[str],
    benchmarks: Sequence[Benchmark],
    asked: Sequence[str],
    notes: dict[str, Any],
) -> Prepared:
    """The same for a task that learns plain text: full windows train, and all of the held-out text is measured."""
    length, cache = config.task.max_length, config.paths.cache_folder
    assert length
    rows, size = packed(held_out, tokenizer, length, cache, keep_rest=True), sum(len(t.encode()) for t in held_out)
    return Prepared(
        packed(train, tokenizer, length, cache),
        _held_out(config, tokenizer, rows, size, general, benchmarks),
        fingerprint(train, held_out, asked, general),
        notes,
    )


def _held_out(
    config: RunConfig, tokenizer: Any, rows: Rows, size: int, general: list[str], benchmarks: Sequence[Benchmark]
) -> HeldOut:
    probe = packed(general, tokenizer, PROBE_WINDOW, config.paths.cache_folder, keep_rest=True)
    return HeldOut(rows, size, probe, benchmarks, config.task.eval_batch_size or 1)


def answers(conversations: Sequence[Sequence[Message]], form: str, tokenizer: Any, max_length: int) -> tuple[Rows, int]:
    """Rows whose loss counts on the answers' text without the end token, and the UTF-8 length of that text.

    Conversations longer than `max_length` tokens are left out, so that no answer is cut.
    """
    rows, size = [], 0
    for messages in conversations:
        prompted = FORMS[form](messages, "")
        ids, counted = encode(prompted, tokenizer, max_length + 1)
        if len(ids) <= max_length and any(counted):
            rows.append((ids, counted))
            size += sum(len(prompted.text[first:last].encode()) for first, last in prompted.spans)
    return Rows.of(rows), size


def chosen_per_token(benchmark: Benchmark, answers: Answers, tokenizer: Any) -> list[int]:
    """The choice whose tokens are likeliest on average, for each question."""
    chosen = []
    for question, likelihoods in zip(benchmark.questions, answers.likelihoods, strict=True):
        # Counted as lm-eval splits them: what the choice adds to the prompt's tokens.
        prompt = len(tokenizer.encode(question.prompt))
        lengths = [len(tokenizer.encode(f"{question.prompt} {choice}")) - prompt for choice in question.choices]
        chosen.append(per_token_choice(likelihoods, lengths))
    return chosen


class FineTuning:
    """Measuring, for a task whose `Prepared.data` is a `HeldOut`. A task adds `score`."""

    headline: str

    def own_loss(self, model: Any, held_out: HeldOut) -> float:
        """The task's headline: bits per byte of answers or perplexity of plain text."""
        measured = Loss.of(model, held_out.rows)
        if self.headline == "answer_bits_per_byte":
            return measured.bits / held_out.text_bytes
        return measured.perplexity

    def baseline(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        """What is known of the model before it trains."""
        held_out: HeldOut = prepared.data
        before = {f"{self.headline}_before": self.own_loss(model, held_out)}
        if len(held_out.general):
            before["general_loss_before"] = Loss.of(model, held_out.general).mean
        return before

    def measure(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        return {"heldout_loss": Loss.of(model, prepared.data.rows[:ON_THE_WAY]).mean}

    def evaluate(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        held_out: HeldOut = prepared.data
        metrics = {self.headline: self.own_loss(model, held_out)}
        if len(held_out.general):
            metrics["general_loss"] = Loss.of(model, held_out.general).mean
        answered = ask(model, tokenizer, held_out.benchmarks, held_out.batch_size)
        for benchmark in held_out.benchmarks:
            if benchmark.name in answered:
                metrics |= self.score(benchmark, answered[benchmark.name], tokenizer)
        return metrics

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        """Percent, by the metric's name."""
        return {benchmark.name: 100 * answers.lm_eval}
