"""Benchmark questions, in the form in which they are put to a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .corpora import Problem, Question, shuffled
from .prompts import FORMS, pair


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question that a model answers with the likeliest of some texts.

    Attributes:
        prompt: The question. A space stands between the prompt and a choice.
        choices: The texts.
        gold: The index of the right choice.
        kind: The group of the question, where a scorer averages over groups.
    """

    prompt: str
    choices: tuple[str, ...]
    gold: int
    kind: int = 0


@dataclass(frozen=True)
class OpenQuestion:
    """A question that a model answers by greedy generation; `answer` is the right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Benchmark:
    """Questions of one kind, all `ChoiceQuestion` or all `OpenQuestion`.

    Attributes:
        name: The name of the metric.
        questions: The questions.
        until: Texts that end a generated answer, beside the end token.
        new_tokens: At most so many tokens are generated for an answer.
        extract: The pattern that finds the answer in a generated text for lm-eval's own `exact_match`. The last match
            counts.
    """

    name: str
    questions: Sequence[Any]
    until: tuple[str, ...] = ()
    new_tokens: int = 0
    extract: str = ""

    def as_task(self, folder: Path) -> dict[str, Any]:
        """The configuration of the benchmark for lm-eval. The questions are written to `folder`."""
        path = folder / f"{self.name}.jsonl"
        task: dict[str, Any] = {
            "task": self.name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            "doc_to_text": "{{prompt}}",
            "metadata": {"version": 1},
        }
        rows = []
        for q in self.questions:
            if isinstance(q, ChoiceQuestion):
                rows.append({"prompt": q.prompt, "choices": list(q.choices), "gold": q.gold})
            else:
                rows.append({"prompt": q.prompt, "answer": q.answer})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        if isinstance(self.questions[0], ChoiceQuestion):
            metric = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
            kind = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"}
            return task | kind | {"target_delimiter": " ", "metric_list": metric}
        generation = {"until": list(self.until), "max_gen_toks": self.new_tokens, "do_sample": False}
        pick = {"function": "regex", "regex_pattern": self.extract, "group_select": -1}
        metric = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
        return task | {
            "output_type": "generate_until",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": generation,
            "filter_list": [{"name": "extract", "filter": [pick, {"function": "take_first"}]}],
            "metric_list": [metric[0] | {"regexes_to_ignore": [",", r"\$", r"\.$"], "ignore_case": True}],
        }


T = TypeVar("T")
VERSION = "questions-2"  # part of records: raise it when the text of a question changes
LETTERS = "ABCDE"
# What stands behind the prompt of a word problem, and the texts that end an answer. For Alpaca's prompt both are those
# of MetaMath's evaluation. It lists each text with a colon too, which changes nothing: the text alone ends an answer.
BEGINNING = {"alpaca": " Let's think step by step.", "open-instruct": ""}
STOP = {
    "alpaca": ("Question", "USER", "ASSISTANT", "Instruction", "Response"),
    "open-instruct": ("<|user|>", "<|assistant|>"),
}
# Patterns that find the answer in a generated text: for GSM8K, lm-eval's own `flexible-extract`; for MATH, the text
# behind MetaMath's mark; elsewhere the first line.
GSM8K_EXTRACT = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
MARKED_EXTRACT = r"The answer is:\s*(.*)"
ANY_EXTRACT = r"^\s*(.*)"


def lettered(question: Question) -> str:
    """A question in MMLU's form, as in lm-eval: the question, an option on each line, `Answer:`."""
    options = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False))
    return f"{question.text}{options}\nAnswer:"


def mmlu(name: str, questions: Sequence[Question], examples: Sequence[Question], shots: int) -> Benchmark:
    """MMLU. Before each question stand the first `shots` of the examples of the same subject, with their answers."""
    choice_questions = []
    for question in questions:
        subject = question.subject.replace("_", " ")
        text = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        for example in [e for e in examples if e.subject == question.subject][:shots]:
            text += f"{lettered(example)} {LETTERS[example.gold]}\n\n"
        letters = tuple(LETTERS[: len(question.options)])
        choice_questions.append(ChoiceQuestion(text + lettered(question), letters, question.gold))
    return Benchmark(name, choice_questions)


def exam(name: str, questions: Sequence[Question]) -> Benchmark:
    """MedQA in lm-eval's form: lettered options, no examples."""
    return Benchmark(
        name,
        [ChoiceQuestion(f"Question: {lettered(q)}", tuple(LETTERS[: len(q.options)]), q.gold) for q in questions],
    )


def abstracts(name: str, rows: Sequence[tuple[str, Question]]) -> Benchmark:
    """PubMedQA in lm-eval's form: the abstract, the question; the answer is yes or no."""
    return Benchmark(
        name,
        [ChoiceQuestion(f"Abstract: {text}\nQuestion: {q.text}\nAnswer:", q.options, q.gold) for text, q in rows],
    )


def problems(name: str, rows: Sequence[Problem], form: str, extract: str, new_tokens: int) -> Benchmark:
    """Word problems in the prompt that the model trains with. The model generates the answers, from `BEGINNING` on."""
    asked = [FORMS[form](pair(p.question, ""), "").question + BEGINNING[form] for p in rows]
    open_questions = [OpenQuestion(prompt, p.answer) for prompt, p in zip(asked, rows, strict=True)]
    return Benchmark(name, open_questions, STOP[form], new_tokens, extract)


def some(rows: Sequence[T], count: int | None, salt: str) -> list[T]:
    """At most `count` rows, the same rows for every run; all rows where `count` is None."""
    return list(rows) if count is None else shuffled(rows, salt)[:count]
