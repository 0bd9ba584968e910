"""What the paper trained and measured on, from the Hugging Face hub, under its published ids and columns.

Each function is one `load_dataset` call and the columns that it reads; the tests run the same calls on a prepared
local cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ConfigError
from .corpora import Problem, Question, boxed
from .prompts import Message, pair
from .questions import Choice, Open

TULU = "allenai/tulu-v2-sft-mixture"
METAMATH = "meta-math/MetaMathQA"
GSM8K = "openai/gsm8k"
MATH = "EleutherAI/hendrycks_math"
MMLU = "cais/mmlu"
C4 = "allenai/c4"
PILE = "monology/pile-uncopyrighted"  # the Pile itself is no longer served; this copy keeps PubMed Abstracts
PILE_SUBSET = "PubMed Abstracts"
# The paper's financial news were never published; this is a public collection of the same kind.
FINANCIAL_NEWS = "ashraq/financial-news-articles"
MEDICINE_TASKS = "AdaptLLM/medicine-tasks"
FINANCE_TASKS = "AdaptLLM/finance-tasks"
MATH_CONFIGS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def load(path: str, name: str | None, split: str, columns: tuple[str, ...], *, stream: bool = False) -> Any:
    """A split of a data set, checked for the columns that will be read.

    Raises:
        ConfigError: The hub and the local cache cannot give it, or it has other columns.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(path, name, split=split, streaming=stream)
    except Exception as error:  # the hub's client raises a dozen unrelated types for "not there" and "no network"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"task.data=hub: {path} cannot be loaded ({reason}); task.data=packages needs no hub"
        ) from error
    found = rows.column_names or list(next(iter(rows)))
    missing = [column for column in columns if column not in found]
    if missing:
        raise ConfigError(f"task.data=hub: {path} has no column {missing[0]}; found: {', '.join(found)}")
    return rows


def tulu() -> list[list[Message]]:
    """326,154 conversations."""
    rows = load(TULU, None, "train", ("messages",))
    return [[{"role": m["role"], "content": m["content"]} for m in row["messages"]] for row in rows]


def metamath() -> list[list[Message]]:
    """395,000 questions with answers that end in `The answer is: ...`."""
    return [pair(row["query"], row["response"]) for row in load(METAMATH, None, "train", ("query", "response"))]


def gsm8k() -> list[Problem]:
    """The 1,319 test questions."""
    problems = []
    for row in load(GSM8K, "main", "test", ("question", "answer")):
        solution, _, answer = row["answer"].partition("\n#### ")
        problems.append(Problem(row["question"], solution, answer.strip()))
    return problems


def competition_math() -> list[Problem]:
    """The 5,000 test problems of MATH, over its seven subjects."""
    return [
        Problem(row["problem"], row["solution"], boxed(row["solution"]) or "")
        for subject in MATH_CONFIGS
        for row in load(MATH, subject, "test", ("problem", "solution"))
    ]


def mmlu(split: str) -> list[Question]:
    """`test` (14,042 questions) or `dev` (5 a subject)."""
    rows = load(MMLU, "all", split, ("question", "subject", "choices", "answer"))
    return [
        Question(r["subject"], r["question"].strip(), tuple(r["choices"]), r["answer"], r["choices"][r["answer"]])
        for r in rows
    ]


def c4(split: str) -> Iterator[str]:
    """Documents of C4 en, streamed: `train` or `validation`."""
    for row in load(C4, "en", split, ("text",), stream=True):
        yield row["text"]


def pubmed() -> Iterator[str]:
    """PubMed abstracts of the Pile, streamed."""
    for row in load(PILE, None, "train", ("text", "meta"), stream=True):
        if row["meta"]["pile_set_name"] == PILE_SUBSET:
            yield row["text"]


def financial_news() -> Iterator[tuple[str, str]]:
    """(title, article), streamed."""
    for row in load(FINANCIAL_NEWS, None, "train", ("title", "text"), stream=True):
        yield row["title"], row["text"]


def medicine(name: str) -> list[Choice]:
    """PubMedQA, USMLE or RCT, filled-in prompts as AdaptLLM published them."""
    return _choices(load(MEDICINE_TASKS, name, "test", ("input", "options", "gold_index")))


def finance(name: str) -> list[Choice]:
    """FPB, FiQA_SA or Headline; the kind of a Headline question is its `class_id`."""
    return _choices(load(FINANCE_TASKS, name, "test", ("input", "options", "gold_index")))


def finance_open(name: str) -> list[Open]:
    """ConvFinQA or NER."""
    rows = load(FINANCE_TASKS, name, "test", ("input", "label"))
    return [Open(r["input"], r["label"] if isinstance(r["label"], str) else r["label"][0]) for r in rows]


def _choices(rows: Any) -> list[Choice]:
    return [Choice(r["input"], tuple(r["options"]), r["gold_index"], r.get("class_id", 0)) for r in rows]
