"""Benchmark questions in the form in which a model is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .corpora import Problem, Question, shuffled
from .prompts import FORMS, pair


@dataclass(frozen=True)
class Choice:
    """A question that is answered by the likeliest of some texts; a space stands between prompt and text."""

    prompt: str
    choices: tuple[str, ...]
    gold: int
    kind: int = 0  # a group that a scorer may average over


@dataclass(frozen=True)
class Open:
    """A question that is answered by greedy generation."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Benchmark:
    """Questions of one kind under one name.

    Attributes:
        until: Texts that end a generation, beside the end token.
        new_tokens: At most so many tokens are generated.
        extract: A pattern with which lm-eval picks the answer for its own `exact_match`; the last match counts.
    """

    name: str
    questions: Sequence[Any]  # all Choice or all Open
    until: tuple[str, ...] = ()
    new_tokens: int = 0
    extract: str = ""

    def as_task(self, folder: Path) -> dict[str, Any]:
        """lm-eval's configuration of it; the questions are written to `folder`."""
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
            if isinstance(q, Choice):
                rows.append({"prompt": q.prompt, "choices": list(q.choices), "gold": q.gold})
            else:
                rows.append({"prompt": q.prompt, "answer": q.answer})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if isinstance(self.questions[0], Choice):
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
VERSION = "questions-1"  # recorded; raised when a form below changes
LETTERS = "ABCDE"
STOP = {"alpaca": ("### Instruction:", "### Response:"), "open-instruct": ("<|user|>", "<|assistant|>")}
# How lm-eval itself finds the answer in a generation: its `flexible-extract` for GSM8K; for MATH, what is marked.
GSM8K_EXTRACT = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
ANY_EXTRACT = r"^\s*(.*)"  # the first line as it stands
MARKED_EXTRACT = r"The answer is:\s*(.*)"


def lettered(question: Question) -> str:
    """MMLU's form (as in lm-eval): the question, one option a line, `Answer:`."""
    options = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False))
    return f"{question.text}{options}\nAnswer:"


def mmlu(name: str, questions: Sequence[Question], examples: Sequence[Question], shots: int) -> Benchmark:
    """MMLU, with the first `shots` development questions of the same subject before each question."""
    asked = []
    for question in questions:
        subject = question.subject.replace("_", " ")
        text = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        for example in [e for e in examples if e.subject == question.subject][:shots]:
            text += f"{lettered(example)} {LETTERS[example.gold]}\n\n"
        letters = tuple(LETTERS[: len(question.options)])
        asked.append(Choice(text + lettered(question), letters, question.gold))
    return Benchmark(name, asked)


def exam(name: str, questions: Sequence[Question]) -> Benchmark:
    """MedQA, as lm-eval asks it: lettered, without examples."""
    asked = [Choice(f"Question: {lettered(q)}", tuple(LETTERS[: len(q.options)]), q.gold) for q in questions]
    return Benchmark(name, asked)


def abstracts(name: str, rows: Sequence[tuple[str, Question]]) -> Benchmark:
    """PubMedQA, as lm-eval asks it: the abstract, the question, yes or no."""
    asked = [Choice(f"Abstract: {text}\nQuestion: {q.text}\nAnswer:", q.options, q.gold) for text, q in rows]
    return Benchmark(name, asked)


def problems(name: str, rows: Sequence[Problem], form: str, extract: str, new_tokens: int) -> Benchmark:
    """Word problems in the prompt that the model was trained with, answered by generation."""
    asked = [Open(FORMS[form](pair(p.question, ""), "").question, p.answer) for p in rows]
    return Benchmark(name, asked, STOP[form], new_tokens, extract)


def some(rows: Sequence[T], count: int | None, salt: str) -> list[T]:
    """A subset drawn once and for all: the same questions for every run. None: all."""
    return list(rows) if count is None else shuffled(rows, salt)[:count]
