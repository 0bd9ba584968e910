"""The paper's data sets under their published ids and columns: from the Hugging Face hub, or from local copies.

Each function calls `load_dataset` and reads some columns. Its argument `copies` is `task.data_dir`: a folder with
copies of the data sets, or None for the hub. The tests run the same calls on local folders that have the names of the
data sets.

A run on copies has the same key as a run on the hub's data. What stands in the folder of an id has to be that data set:
a copy of another length is refused, and a copy of which only some files were fetched must not end before the run does.
The record holds a hash of the rows, and the commit of a copy that this project has fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, one_line
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

# How many rows the hub's data sets have, where that is known: data set -> configuration -> split -> rows.
ROWS: dict[str, dict[str | None, dict[str, int]]] = {
    TULU: {None: {"train": 326_154}},
    METAMATH: {None: {"train": 395_000}},
    GSM8K: {"main": {"test": 1_319}},
    MATH: {
        subject: {"test": rows}
        for subject, rows in zip(MATH_SUBJECTS, (1_187, 474, 479, 903, 540, 871, 546), strict=True)
    },
    MMLU: {"all": {"test": 14_042, "dev": 285}},
    C4: {"en": {"train": 364_868_892, "validation": 364_608}},
    FINANCIAL_NEWS: {None: {"train": 306_242}},
}
READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}  # of a copy that is one file
# In a copy that `copies.fetch` has made, this file says which commit and which files were fetched. The name begins with
# a dot: `datasets` would read another JSON file as data.
ORIGIN = ".origin.json"


def load(
    path: str,
    name: str | None,
    split: str,
    columns: tuple[str, ...],
    *,
    copies: str | None = None,
    stream: bool = False,
) -> Any:
    """A split of a data set, which has the columns that are read.

    Args:
        path: The id of the data set.
        name: Its configuration; None for the only one.
        split: The split.
        columns: The columns that are read.
        copies: The folder with copies of data sets; None: the hub.
        stream: Whether the rows are read one after the other, in place of all at once.

    Raises:
        ConfigError: Neither the hub nor the local cache has the data set, or there is no copy; a column is missing; or
            a copy has another number of rows than the data set.
    """
    from datasets import load_dataset

    copy = existing_copy(path, copies) if copies else None
    arguments: dict[str, Any] = {"path": str(copy or path), "name": name}
    if copy and copy.is_file():
        arguments = {"path": READERS[copy.suffix], "data_files": {split: str(copy)}}
    try:
        rows = load_dataset(**arguments, split=split, streaming=stream)
    except Exception as error:  # the client raises many unrelated types for a missing data set or network
        reason = first_line(error)
        if copies:
            raise ConfigError(
                f"task.data_dir: {copy} cannot be loaded as {path} ({reason}); "
                f"a copy has all files of the data set, its README.md too: {command(path, copies)}"
            ) from error
        raise ConfigError(
            f"task.data=hub: {path} cannot be loaded ({reason}); task.data_dir=FOLDER reads a copy, "
            f"task.data=packages needs no hub: docs/models-and-data.md"
        ) from error
    where = f"task.data_dir: {copy}" if copies else f"task.data=hub: {path}"
    present = rows.column_names or list(next(iter(rows)))
    missing = [column for column in columns if column not in present]
    if missing:
        raise ConfigError(f"{where} has no column {missing[0]}; found: {', '.join(present)}")
    published = rows_of(path, name, split)
    if copies and not stream and published not in (None, len(rows)):
        raise ConfigError(
            f"{where} is no copy of {path}: {len(rows):,} rows in {split}, and the hub has {published:,}; "
            "data of your own: task.train_file"
        )
    return rows


def first_line(error: Exception) -> str:
    """The first line of the message of an error of the hub's client, which goes on for many lines."""
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


def rows_of(path: str, name: str | None, split: str) -> int | None:
    """How many rows the hub has; None where this project does not know."""
    return ROWS.get(path, {}).get(name, {}).get(split)


def copy_of(path: str, copies: Path) -> Path | None:
    """The copy of a data set: the folder `<copies>/<owner>/<name>` or `<copies>/<name>`, or a file of such a name."""
    for place in (copies / path, copies / path.rpartition("/")[2]):
        for copy in (place, *(place.with_name(place.name + ending) for ending in READERS)):
            if copy.exists():
                return copy
    return None


def existing_copy(path: str, copies: str) -> Path:
    """The copy of a data set that `copy_of` finds.

    Raises:
        ConfigError: There is no copy.
    """
    if copy := copy_of(path, Path(copies)):
        return copy
    raise ConfigError(f"task.data_dir: {copies} has no copy of {path}; to get one: {command(path, copies)}")


def command(path: str, copies: str) -> str:
    """The command that makes a copy of a data set."""
    return f"python scripts/prepare_data.py --paper {path} --copies {copies}"


def stream(path: str, name: str | None, split: str, columns: tuple[str, ...], copies: str | None) -> Iterator[Any]:
    """The rows of a split, one after the other. Of a copy, a part of the files is enough, if the reader stops in time.

    Raises:
        ConfigError: As `load`; or the reader has come to the end of a copy that is not known to be whole.
    """
    count = 0
    for count, row in enumerate(load(path, name, split, columns, copies=copies, stream=True), 1):  # noqa: B007
        yield row
    if copies and count != rows_of(path, name, split):
        raise ConfigError(
            f"task.data_dir: the copy of {path} ends after {count:,} rows of {split}, and the run reads on; "
            "copy more of its files, or read less (task.train_rows, task.heldout_rows)"
        )


def origins(data_sets: tuple[str, ...], copies: str | None) -> list[str]:
    """Where data sets come from, for the record: the hub, or copies, with the commit where that is known."""
    if copies is None:
        return ["hub"]
    return [f"copy of {path}{_commit(existing_copy(path, copies))}" for path in data_sets]


def _commit(copy: Path) -> str:
    try:
        return f" at {json.loads((copy / ORIGIN).read_text(encoding='utf-8'))['commit']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def tulu(copies: str | None = None) -> list[list[Message]]:
    """326,154 conversations."""
    rows = load(TULU, None, "train", ("messages",), copies=copies)
    return [[{"role": m["role"], "content": m["content"]} for m in row["messages"]] for row in rows]


def metamath(copies: str | None = None) -> list[list[Message]]:
    """395,000 questions with answers that end in `The answer is: ...`.

    As in the authors' code, the first line of a question is Alpaca's instruction, and further lines are its input.
    """
    rows = load(METAMATH, None, "train", ("query", "response"), copies=copies)
    conversations = []
    for row in rows:
        instruction, _, more = row["query"].partition("\n")
        context = [{"role": "system", "content": more}] if more else []
        conversations.append(context + pair(instruction, row["response"]))
    return conversations


def gsm8k(copies: str | None = None) -> list[Problem]:
    """The 1,319 test questions."""
    problems = []
    for row in load(GSM8K, "main", "test", ("question", "answer"), copies=copies):
        solution, _, answer = row["answer"].partition("\n#### ")
        problems.append(Problem(row["question"], solution, answer.strip()))
    return problems


def competition_math(copies: str | None = None) -> list[Problem]:
    """The 5,000 test problems of MATH, in its seven subjects."""
    return [
        Problem(row["problem"], row["solution"], boxed(row["solution"]) or "")
        for subject in MATH_SUBJECTS
        for row in load(MATH, subject, "test", ("problem", "solution"), copies=copies)
    ]


def mmlu(split: str, copies: str | None = None) -> list[Question]:
    """`test` (14,042 questions) or `dev` (5 a subject)."""
    rows = load(MMLU, "all", split, ("question", "subject", "choices", "answer"), copies=copies)
    return [Question(r["subject"], r["question"].strip(), tuple(r["choices"]), r["answer"]) for r in rows]


def c4(split: str, copies: str | None = None) -> Iterator[str]:
    """The documents of C4 (English), streamed; the split is `train` or `validation`."""
    for row in stream(C4, "en", split, ("text",), copies):
        yield row["text"]


def pubmed(copies: str | None = None) -> Iterator[str]:
    """The PubMed abstracts of the Pile, streamed."""
    for row in stream(PILE, None, "train", ("text", "meta"), copies):
        if row["meta"]["pile_set_name"] == PILE_SUBSET:
            yield row["text"]


def financial_news(copies: str | None = None) -> Iterator[tuple[str, str]]:
    """The title and the text of each article, streamed."""
    for row in stream(FINANCIAL_NEWS, None, "train", ("title", "text"), copies):
        yield row["title"], row["text"]


def medicine(name: str, copies: str | None = None) -> list[ChoiceQuestion]:
    """PubMedQA, USMLE or RCT, in the filled-in prompts that AdaptLLM published."""
    return _choices(load(MEDICINE_TASKS, name, "test", ("input", "options", "gold_index"), copies=copies))


def finance(name: str, copies: str | None = None) -> list[ChoiceQuestion]:
    """FPB, FiQA_SA or Headline. The kind of a Headline question is its `class_id`."""
    return _choices(load(FINANCE_TASKS, name, "test", ("input", "options", "gold_index"), copies=copies))


def finance_open(name: str, copies: str | None = None) -> list[OpenQuestion]:
    """ConvFinQA or NER."""
    rows = load(FINANCE_TASKS, name, "test", ("input", "label"), copies=copies)
    return [OpenQuestion(r["input"], r["label"] if isinstance(r["label"], str) else r["label"][0]) for r in rows]


def _choices(rows: Any) -> list[ChoiceQuestion]:
    return [ChoiceQuestion(r["input"], tuple(r["options"]), r["gold_index"], r.get("class_id", 0)) for r in rows]
