"""Benchmark questions in the form in which a model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..evaluation import Benchmark, Choice, Open
from .corpora import Problem, Question, shuffled
from .prompts import FORMS, pair

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
