"""The paper's data sets, from the Hugging Face hub, under their published ids and columns.

Each function calls `load_dataset` and reads some columns. The tests run the same calls on local folders that have the
names of the data sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ConfigError
from .corpora import MATH_SUBJECTS, Problem, Question, boxed
from .prompts import Message, pair
from .questions import ChoiceQuestion, OpenQuestion

TULU = "allenai/tulu-v2-sft-mixture"
METAMATH = "meta-math/MetaMathQA"
GSM8K = "openai/gsm8k"
MATH = "EleutherAI/hendrycks_math"
MMLU = "cais/mmlu"
C4 = "allenai/c4"
PILE = "monology/pile-uncopyrighted"  # the Pile itself is no longer served; this copy has the PubMed abstracts
PILE_SUBSET = "PubMed Abstracts"
# The paper's financial news were never published. This public collection is of the same kind.
FINANCIAL_NEWS = "ashraq/financial-news-articles"
MEDICINE_TASKS = "AdaptLLM/medicine-tasks"
FINANCE_TASKS = "AdaptLLM/finance-tasks"


def load(path: str, name: str | None, split: str, columns: tuple[str, ...], *, stream: bool = False) -> Any:
    """A split of a data set, which has the columns that are read.

    Raises:
        ConfigError: Neither the hub nor the local cache has the data set, or a column is missing.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(path, name, split=split, streaming=stream)
    except Exception as error:  # the client raises many unrelated types for a missing data set or network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"task.data=hub: {path} cannot be loaded ({reason}); task.data=packages needs no hub"
        ) from error
    present = rows.column_names or list(next(iter(rows)))
    missing = [column for column in columns if column not in present]
    if missing:
        raise ConfigError(f"task.data=hub: {path} has no column {missing[0]}; found: {', '.join(present)}")
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
    """The 5,000 test problems of MATH, in its seven subjects."""
    return [
        Problem(row["problem"], row["solution"], boxed(row["solution"]) or "")
        for subject in MATH_SUBJECTS
        for row in load(MATH, subject, "test", ("problem", "solution"))
    ]


def mmlu(split: str) -> list[Question]:
    """`test` (14,042 questions) or `dev` (5 a subject)."""
    rows = load(MMLU, "all", split, ("question", "subject", "choices", "answer"))
    return [Question(r["subject"], r["question"].strip(), tuple(r["choices"]), r["answer"]) for r in rows]


def c4(split: str) -> Iterator[str]:
    """The documents of C4 (English), streamed; the split is `train` or `validation`."""
    for row in load(C4, "en", split, ("text",), stream=True):
        yield row["text"]


def pubmed() -> Iterator[str]:
    """The PubMed abstracts of the Pile, streamed."""
    for row in load(PILE, None, "train", ("text", "meta"), stream=True):
        if row["meta"]["pile_set_name"] == PILE_SUBSET:
            yield row["text"]


def financial_news() -> Iterator[tuple[str, str]]:
    """The title and the text of each article, streamed."""
    for row in load(FINANCIAL_NEWS, None, "train", ("title", "text"), stream=True):
        yield row["title"], row["text"]


def medicine(name: str) -> list[ChoiceQuestion]:
    """PubMedQA, USMLE or RCT, in the filled-in prompts that AdaptLLM published."""
    return _choices(load(MEDICINE_TASKS, name, "test", ("input", "options", "gold_index")))


def finance(name: str) -> list[ChoiceQuestion]:
    """FPB, FiQA_SA or Headline. The kind of a Headline question is its `class_id`."""
    return _choices(load(FINANCE_TASKS, name, "test", ("input", "options", "gold_index")))


def finance_open(name: str) -> list[OpenQuestion]:
    """ConvFinQA or NER."""
    rows = load(FINANCE_TASKS, name, "test", ("input", "label"))
    return [OpenQuestion(r["input"], r["label"] if isinstance(r["label"], str) else r["label"][0]) for r in rows]


def _choices(rows: Any) -> list[ChoiceQuestion]:
    return [ChoiceQuestion(r["input"], tuple(r["options"]), r["gold_index"], r.get("class_id", 0)) for r in rows]
