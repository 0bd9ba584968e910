"""A user's own data: any model, conversations or texts, and any metric of lm-eval.

The rows of `task.train_file` are divided by a hash of each row, so the division depends neither on their order nor on
the seed: some rows are reported, some select the learning rate, and the rest trains. With `task.heldout_file` all of
its rows are reported. The loss counts on answers only, or on every token of a text.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data import hub, overlap, prompts, sources, userfile
from ..data.rows import Rows, end_token, fingerprint
from ..data.userfile import HELD_OUT, TRAIN
from ..data.windows import packed
from ..errors import ConfigError
from ..measure import benchmarks, continuations, scorers
from ..measure.benchmarks import BenchmarkName, LmEvalBenchmarks
from ..measure.evaluation import Loss
from ..spec import ranks, run_config
from ..spec.run_config import RunConfig
from .base import Metric, Task, TaskData, examples_taken
from .finetuning import (
    CURVE_ROWS,
    GENERAL_PERPLEXITY,
    PROBE_WINDOW,
    answer_rows,
    check_trained,
    general_text,
    text_rows,
)

LOGGED = ("loss", "learning_rate", "grad_norm")  # what the curve of every run holds: no names of benchmarks
OF_BENCHMARKS = ("benchmark_path", "benchmark_limit", "benchmark_shots", "benchmark_template")
HELDOUT_SHARE = 0.1  # of train_file, where the user gives neither a share nor a file


def loss_metric(name: str, label: str) -> Metric:
    """A metric of held-out rows that is better when it is lower."""
    return Metric(name, label, higher_is_better=False, unit="", documents="heldout_rows")


LOSSES = (
    loss_metric("heldout_loss", "held-out loss, nats a token"),
    loss_metric("heldout_bits_per_byte", "held-out bits per byte"),
    loss_metric("heldout_perplexity", "held-out perplexity"),
)
MATCH = Metric("answer_match", "generated answers that match", questions="questions")
SELECTION = loss_metric("selection_loss", "loss on the selection split, nats a token")


@dataclass(frozen=True)
class Split:
    """The rows of a user: conversations or texts.

    Attributes:
        train: The rows that train.
        reported: The rows whose loss is reported.
        selection: The rows whose loss selects the learning rate.
        are_texts: Whether the rows are texts.
        left_out: Why rows were left out -> how many.
        unread: The setting that names a file -> the columns of the file that are not read.
        overlapping: How many of the rows that train repeat what is measured; none where such rows are left out.
    """

    train: list[Any]
    reported: list[Any]
    selection: list[Any]
    are_texts: bool
    left_out: Counter[str]
    unread: dict[str, tuple[str, ...]]
    overlapping: int = 0


@dataclass(frozen=True)
class HeldOutQuestion:
    """A held-out row whose answer is generated: the token ids before the answer, and the right answer."""

    ids: list[int]
    answer: str


@dataclass(frozen=True)
class CustomSet:
    """What is measured.

    Attributes:
        reported: The rows whose loss is reported.
        text_bytes: UTF-8 length of the text of `reported` on which the loss counts.
        selection: The rows whose loss selects the learning rate.
        general: Windows of general text, for the forgetting probe.
        questions: The rows whose answers are generated.
        end: The text that ends a generated answer.
        benchmarks: The benchmarks of lm-eval; None where there are none.
        settings: The settings of the task.
    """

    reported: Rows
    text_bytes: int
    selection: Rows
    general: Rows
    questions: list[HeldOutQuestion]
    end: str
    benchmarks: LmEvalBenchmarks | None
    settings: run_config.TaskSettings


class CustomTask(Task):
    """A user's own data and metrics."""

    name = "custom"
    version = 2
    needs = ("format", "prompt", "max_length", "heldout_rows", "selection_share", "new_tokens")
    headline = "heldout_loss"
    selection = "selection_loss"
    paper_model = ""
    metrics = (*LOSSES, MATCH, GENERAL_PERPLEXITY, SELECTION)

    def metrics_of(self, settings: run_config.TaskSettings) -> tuple[Metric, ...]:
        answers = (MATCH,) if settings.match else ()
        probe = () if settings.probe_documents == 0 else (GENERAL_PERPLEXITY,)
        return (*LOSSES, *answers, *map(benchmark_metric, settings.benchmarks or ()), *probe)

    def metric(self, name: str) -> Metric:
        declared = {metric.name: metric for metric in self.metrics}
        if name in LOGGED:
            raise KeyError(name)
        return declared[name] if name in declared else benchmark_metric(name)

    def check(self, config: RunConfig) -> None:
        t = config.task
        if not t.train_file:
            raise ConfigError("task.train_file is missing; task=custom trains on your rows: docs/your-data.md")
        if t.heldout_file and t.heldout_share:
            raise ConfigError("task.heldout_share must be null where task.heldout_file is given")
        assert t.selection_share
        if (share := reported_share(t)) + t.selection_share >= 1:
            raise ConfigError(
                f"task.heldout_share and task.selection_share must be less than 1 together, got {share} and "
                f"{t.selection_share}: no row would train"
            )
        if t.match and t.format == "text":
            raise ConfigError("task.match must be null for task.format=text, which has no answers")
        for name in () if t.benchmarks else OF_BENCHMARKS:
            if (value := getattr(t, name)) is not None and value is not False:  # 0 shots are a setting too
                raise ConfigError(f"task.{name} is given, and task.benchmarks names no task")
        if taken := {*LOGGED, *(metric.name for metric in self.metrics)} & set(t.benchmarks or ()):
            raise ConfigError(f"task.benchmarks: {sorted(taken)[0]} is the name of another number of every run")

    def contents(self, config: RunConfig) -> dict[str, str]:
        t = config.task
        hashes = {"data": userfile.checked(t.train_file, TRAIN, t.prompt, t.format) if t.train_file else ""}
        if t.heldout_file:
            hashes["heldout"] = userfile.checked(t.heldout_file, HELD_OUT, t.prompt, t.format)
        if t.benchmark_path:
            hashes["benchmarks"] = benchmarks.folder_fingerprint(t.benchmark_path)
        return hashes

    def sequence_tokens(self, config: RunConfig) -> int:
        generated = config.task.new_tokens if config.task.match else None
        return self.row_tokens(config) + (generated or 0)

    def prepare(self, config: RunConfig, tokenizer: Any) -> TaskData:
        self.check(config)
        t, cache = config.task, config.paths.cache_folder
        assert t.prompt and t.max_length and t.heldout_rows
        end_token(tokenizer)  # refused before the data are read
        rows = divided(t)
        if t.match and rows.are_texts:
            raise ConfigError("task.match must be null for texts, which have no answers")
        asked, general = benchmarks_of(t, tokenizer), general_text(config)
        rows = without_repetitions(rows, [*general, *(asked.texts if asked else ())], t)
        prompt = None if rows.are_texts else prompts.prompt_of(t.prompt, tokenizer)

        train = self.training_rows(rows, tokenizer, config)
        reported, text_bytes = self.measured_rows(rows.reported, rows.are_texts, tokenizer, config)
        selection, _ = self.measured_rows(rows.selection, rows.are_texts, tokenizer, config)
        questions = questions_of(rows.reported, prompt, tokenizer, t) if prompt and t.match else []
        if not rows.are_texts:
            check_trained(len(rows.train), len(train), config)
        counts = summary(rows, train, reported, selection, t.max_length)
        if ranks.first():
            passes = examples_taken(len(train), config.training.batch_size, config.training.steps) / len(train)
            print("\n".join(report_lines(counts, passes)), file=sys.stderr)
        own = [setting for setting, file in ((TRAIN, t.train_file), (HELD_OUT, t.heldout_file)) if file]
        notes = {
            "rows": counts,
            **({"prompt": prompt.version} if prompt else {}),
            **({"scorers": {"answer_match": scorers.VERSIONS["answer_match"]}} if t.match else {}),
            **({"benchmarks": asked.note} if asked else {}),
            "sources": [*own, *(probe_origin(config) if general else ())],
        }
        return TaskData(
            train,
            CustomSet(
                reported,
                text_bytes,
                selection,
                packed(general, tokenizer, PROBE_WINDOW, cache, keep_rest=True),
                questions,
                prompt.end if prompt else "",
                asked,
                t,
            ),
            fingerprint(rows.train, rows.reported, rows.selection, general, asked.fingerprint if asked else ""),
            notes,
        )

    def training_rows(self, rows: Split, tokenizer: Any, config: RunConfig) -> Rows:
        """The rows that train: answers in their prompt, or full windows of texts."""
        t, cache = config.task, config.paths.cache_folder
        assert t.prompt and t.max_length
        if rows.are_texts:
            return packed(rows.train, tokenizer, t.max_length, cache)
        return prompts.supervised(rows.train, t.prompt, tokenizer, t.max_length, cache)

    def measured_rows(self, items: list[Any], are_texts: bool, tokenizer: Any, config: RunConfig) -> tuple[Rows, int]:
        """The tokenised form of some held-out rows, and the UTF-8 length of the text on which their loss counts."""
        t = config.task
        assert t.prompt and t.max_length
        if are_texts:
            return text_rows(items, tokenizer, config)
        encoded, size = answer_rows(items, t.prompt, tokenizer, t.max_length)
        if not len(encoded):
            raise ConfigError(f"task.max_length: none of {len(items)} held-out rows has at most {t.max_length} tokens")
        return encoded, size

    def baseline(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        return {f"{name}_before": value for name, value in losses(model, data.evaluation).items()}

    def measure(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        return {"heldout_loss": Loss.of(model, data.evaluation.reported[:CURVE_ROWS]).mean}

    def evaluate(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        measured: CustomSet = data.evaluation
        t = measured.settings
        metrics = losses(model, measured)
        metrics["selection_loss"] = Loss.of(model, measured.selection).mean
        if t.match:
            assert t.new_tokens
            ids = [question.ids for question in measured.questions]
            generated = continuations.answers(model, tokenizer, ids, measured.end, t.new_tokens, t.eval_batch_size or 1)
            pairs = zip(generated, measured.questions, strict=True)
            right = [scorers.answer_matches(t.match, text, question.answer) for text, question in pairs]
            metrics |= {"answer_match": 100 * sum(right) / len(right), "answer_match_questions": len(right)}
        if measured.benchmarks:
            metrics |= measured.benchmarks.scores(model, tokenizer, t.eval_batch_size or 1)
        return metrics


def benchmarks_of(t: run_config.TaskSettings, tokenizer: Any) -> LmEvalBenchmarks | None:
    """The benchmarks of a run, loaded; None where the settings name none.

    Raises:
        ConfigError: lm-eval cannot load a benchmark, or the model has no chat template for its questions.
    """
    if not t.benchmarks:
        return None
    asked = benchmarks.load(
        t.benchmarks, t.benchmark_path, t.benchmark_limit, t.benchmark_shots, bool(t.benchmark_template)
    )
    asked.check(tokenizer)
    return asked


def benchmark_metric(name: str) -> Metric:
    """The metric of a benchmark of lm-eval, such as `gsm8k` or `wikitext:word_perplexity`.

    Raises:
        KeyError: The name has another form.
    """
    try:
        parts = BenchmarkName.of(name)
    except TypeError:
        raise KeyError(name) from None
    return Metric(
        name,
        name.replace(":", " "),
        higher_is_better=parts.higher_is_better,
        unit="%" if parts.is_percent else "",
        questions="benchmark_limit",
        is_share=parts.is_share,
    )


def losses(model: Any, measured: CustomSet) -> dict[str, float]:
    """The metrics that are losses, but the loss that selects."""
    loss = Loss.of(model, measured.reported)
    metrics = {
        "heldout_loss": loss.mean,
        "heldout_bits_per_byte": loss.bits / measured.text_bytes,
        "heldout_perplexity": loss.perplexity,
    }
    if len(measured.general):
        metrics["general_perplexity"] = Loss.of(model, measured.general).perplexity
    return metrics


def place(item: Any) -> float:
    """A number in [0, 1) from the hash of a row: rows with the same content have the same number."""
    text = json.dumps(item, sort_keys=True, ensure_ascii=False)
    return int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13


def reported_share(t: run_config.TaskSettings) -> float:
    """The share of the rows of `task.train_file` that are reported: none where a file of its own is."""
    return 0.0 if t.heldout_file else t.heldout_share or HELDOUT_SHARE


def divided(t: run_config.TaskSettings) -> Split:
    """The rows of the user's files, divided by the hash of each row.

    Raises:
        ConfigError: A file is wrong, or one of the parts has no row.
    """
    assert t.train_file and t.format and t.selection_share and t.heldout_rows
    data = userfile.read(t.train_file, TRAIN, t.prompt, t.format)
    other = userfile.read(t.heldout_file, HELD_OUT, t.prompt, t.format) if t.heldout_file else None
    if other and other.are_texts != data.are_texts:
        raise ConfigError("task.heldout_file and task.train_file must hold rows of one kind: answers, or texts")
    share = reported_share(t)
    parts: dict[str, list[Any]] = {"reported": [], "selection": [], "train": []}
    for item in data.items:
        number = place(item)
        part = "reported" if number < share else "selection" if number < share + t.selection_share else "train"
        parts[part].append(item)
    if other:
        parts["reported"] = other.items
    named = {"reported": "task.heldout_share", "selection": "task.selection_share", "train": TRAIN}
    for part, items in parts.items():
        if not items:
            purpose = {"reported": "measure", "selection": "select the learning rate by", "train": "train on"}[part]
            different = len(set(map(place, data.items)))
            which = f"{len(data.items)} rows" + (f" ({different} different)" if different < len(data.items) else "")
            raise ConfigError(f"{named[part]}: of {which} of {t.train_file}, none is left to {purpose}")
    held_out = {part: sorted(parts[part], key=place) for part in ("reported", "selection")}
    surplus = sum(max(0, len(items) - t.heldout_rows) for items in held_out.values())
    return Split(
        parts["train"],
        held_out["reported"][: t.heldout_rows],
        held_out["selection"][: t.heldout_rows],
        data.are_texts,
        Counter({"empty": data.empty + (other.empty if other else 0), "held out beyond task.heldout_rows": surplus}),
        {TRAIN: data.unread} | ({HELD_OUT: other.unread} if other else {}),
    )


def without_repetitions(rows: Split, measured: Sequence[str], t: run_config.TaskSettings) -> Split:
    """The rows without training rows that repeat what is measured, and without selection rows that are reported.

    Args:
        rows: The rows.
        measured: What is measured beside the held-out rows.
        t: The settings of the task: whether to drop, and the most training rows.

    Raises:
        ConfigError: No row is left to train on, or to select by.
    """
    text = str if rows.are_texts else prompts.plain
    reported = set(map(text, rows.reported))
    selection = [item for item in rows.selection if text(item) not in reported]
    held_out = [*reported, *map(text, selection)]
    repeated = overlap.repetitions([text(item) for item in rows.train], [*held_out, *measured])
    kept = [item for item, repeats in zip(rows.train, repeated, strict=True) if not (repeats and t.drop_overlap)]
    for items, setting in ((kept, TRAIN), (selection, "task.selection_share")):
        if not items:
            raise ConfigError(f"{setting}: every row repeats a row that is measured")
    dropped, beyond = len(rows.train) - len(kept), max(0, len(kept) - (t.train_rows or len(kept)))
    left_out = rows.left_out + Counter({"repeat what is measured": dropped, "beyond task.train_rows": beyond})
    left_out["for the selection, but repeat what is measured"] += len(rows.selection) - len(selection)
    overlapping = 0 if t.drop_overlap else sum(repeated[: t.train_rows])
    return replace(rows, train=kept[: t.train_rows], selection=selection, left_out=left_out, overlapping=overlapping)


def questions_of(
    conversations: Sequence[Any], prompt: prompts.Prompt, tokenizer: Any, t: run_config.TaskSettings
) -> list[HeldOutQuestion]:
    """The held-out rows whose last answer is generated: as many as `task.questions` says.

    Raises:
        ConfigError: There is no question, or a right answer has no number for `task.match=number`.
    """
    assert t.max_length
    questions: list[HeldOutQuestion] = []
    for messages in conversations:
        if len(questions) == t.questions:
            break
        transcript = prompt.transcribe(messages, "")
        first, last = transcript.spans[-1]
        question = replace(transcript, text=transcript.text[:first], spans=())
        ids, _ = prompts.encode(question, tokenizer, t.max_length + 1)
        if len(ids) <= t.max_length:
            questions.append(HeldOutQuestion(ids, transcript.text[first:last]))
    if not questions:
        raise ConfigError(
            "task.match: no held-out answer is generated; task.questions must be at least 1, or null for all"
        )
    without = sum(scorers.last_number(question.answer) is None for question in questions)
    if t.match == "number" and without:
        raise ConfigError(f"task.match=number: {without} of {len(questions)} held-out answers have no number")
    return questions


def probe_origin(config: RunConfig) -> list[str]:
    """Where the general text comes from, for the record."""
    t = config.task
    return hub.origins((hub.C4,), t.data_dir) if t.data == "hub" else sources.pins("llamafactory")


def summary(rows: Split, train: Rows, reported: Rows, selection: Rows, max_length: int) -> dict[str, Any]:
    """How many rows and tokens there are, and how many rows were cut, repeated or left out, for the record."""
    pairs = {
        "train": (rows.train, train),
        "reported": (rows.reported, reported),
        "selection": (rows.selection, selection),
    }
    left_out, at_the_limit = rows.left_out.copy(), 0
    repeated = len(rows.train) - len(set(map(place, rows.train)))
    if not rows.are_texts:  # a window of texts holds several rows, and a long text fills several windows
        missing = {name: len(items) - len(encoded) for name, (items, encoded) in pairs.items()}
        left_out["without an answer within task.max_length"] = missing["train"]
        left_out["held out, longer than task.max_length"] = missing["reported"] + missing["selection"]
        at_the_limit = int((train.lengths >= max_length).sum())
    return {
        "kind": "texts" if rows.are_texts else "answers",
        **{name: len(items if rows.are_texts else encoded) for name, (items, encoded) in pairs.items()},
        "train_tokens": int(train.lengths.sum()),
        "train_tokens_counted": int(train.counted.sum()),
        "reported_tokens_counted": int(reported.counted.sum()),
        **({"train_at_max_length": at_the_limit} if at_the_limit else {}),
        **({"train_repeated": repeated} if repeated else {}),
        **({"train_overlapping": rows.overlapping} if rows.overlapping else {}),
        "left_out": {reason: count for reason, count in left_out.items() if count},
        **({"columns_not_read": unread} if (unread := {k: list(v) for k, v in rows.unread.items() if v}) else {}),
    }


def report_lines(counts: dict[str, Any], passes: float) -> list[str]:
    """The lines that say which rows there are, which of them are cut or repeat others, and which were left out."""
    lines = [
        f"custom: {counts['train']} rows of {counts['kind']} train ({counts['train_tokens']:,} tokens, the loss counts "
        f"on {counts['train_tokens_counted']:,}; {passes:.2g} passes), {counts['reported']} are measured, "
        f"{counts['selection']} select the learning rate"
    ]
    if count := counts.get("train_at_max_length"):
        lines.append(f"custom: {count} of the rows that train reach task.max_length, where a longer row is cut")
    if count := counts.get("train_repeated"):
        lines.append(f"custom: {count} of the rows that train repeat another row, and train too")
    if count := counts.get("train_overlapping"):
        lines.append(f"custom: {count} of the rows that train repeat what is measured, and train too")
    if counts["left_out"]:
        lines.append("custom: left out: " + ", ".join(f"{n} {reason}" for reason, n in counts["left_out"].items()))
    for file, columns in counts.get("columns_not_read", {}).items():
        shown = ", ".join(columns[:8]) + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
        lines.append(f"custom: {file}: columns that are not read: {shown}")
    return lines


TASK = CustomTask()
