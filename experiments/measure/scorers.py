"""The scorers of the benchmarks that the paper reports. All of them take texts or labels; none needs a model.

Results are fractions in [0, 1].
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

# Recorded with each result; raised when a scorer changes what it says about any text.
VERSIONS = {
    "metamath": 1,
    "weighted_f1": 1,
    "headline_f1": 1,
    "entity_f1": 1,
    "convfinqa": 1,
    "per_token_choice": 1,
}

ANSWER_MARK = "The answer is:"
_number = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:/\d+)?")
_mixed = re.compile(r"([-+]?)\s*(\d+)\s+(\d+)/(\d+)")


def marked_answer(text: str) -> str:
    """What stands behind the last `The answer is:`, up to the end of its line; empty where the mark is missing."""
    _, mark, rest = text.rpartition(ANSWER_MARK)
    lines = rest.strip().splitlines()
    return lines[0].strip() if mark and lines else ""


def number(text: str) -> Fraction | None:
    """The first number of a text, exactly, or None where there is none.

    Thousands commas, signs, decimals, fractions and mixed numbers are read; currency signs and units are passed over.
    """
    mixed = _mixed.search(text)
    found = _number.search(text.replace("- ", "-").replace("$", ""))
    if mixed and int(mixed[4]) and (not found or mixed.start(2) <= found.end()):
        value = Fraction(int(mixed[2])) + Fraction(int(mixed[3]), int(mixed[4]))
        return -value if mixed[1] == "-" else value
    if not found:
        return None
    top, _, bottom = found.group().replace(",", "").rstrip(".").partition("/")
    if bottom and int(bottom) == 0:
        return None
    return Fraction(top) / (int(bottom) if bottom else 1)


def gsm8k_right(generated: str, answer: str) -> bool:
    """MetaMath's rule: the number behind `The answer is:` is the answer.

    Numbers are compared by value. MetaMath's own script rounds both to integers first, which would take 3.4 for 3.
    """
    guess = number(marked_answer(generated))
    return guess is not None and guess == number(answer)


def tidy_latex(answer: str) -> str:
    """A MATH answer in one spelling: no spaces, units, text, dollar signs or sizes; fractions and roots in braces."""
    text = answer.strip().rstrip(".").strip("$")
    text = re.sub(r"\\text\s*\{\s*(?:and|or)\s*\}", ",", text)
    text = re.sub(r"(?<=[\d}])\s*\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\^\d)?", "", text)  # a unit behind a number
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    for junk in (r"\left", r"\right", r"\!", r"\,", r"\;", r"\ ", r"\$", "$", r"^\circ", r"^{\circ}", r"\%", "%"):
        text = text.replace(junk, "")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace(r"\cdot", "*").replace(r"\le ", "")
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\{[^{}]*\})([^{])", r"\\frac\1{\2}", text)
    text = re.sub(r"\\frac([^{])(\{)", r"\\frac{\1}\2", text)
    text = re.sub(r"\\sqrt([^{\[])", r"\\sqrt{\1}", text)
    text = re.sub(r"^[a-zA-Z]=", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text) if not re.search(r"[()\[\]{}]", text) else text
    text = re.sub(r"(?<!\d)\.(\d)", r"0.\1", text)
    text = re.sub(r"^(-?\d+)\.0+$", r"\1", text)
    return re.sub(r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", text)


def _value(tidied: str) -> Fraction | None:
    """The number that a tidied answer is, if it is one."""
    match = re.fullmatch(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}", tidied)
    if match and int(match[3]):
        return (-1 if match[1] else 1) * Fraction(int(match[2]), int(match[3]))
    return Fraction(tidied) if re.fullmatch(r"-?\d+(?:\.\d+)?", tidied) else None


def math_right(generated: str, answer: str) -> bool:
    """MetaMath's rule for MATH: what stands behind `The answer is:` equals the answer once both are tidied."""
    guess, truth = tidy_latex(marked_answer(generated)), tidy_latex(answer)
    if not guess:
        return False
    return guess == truth or (_value(guess) is not None and _value(guess) == _value(truth))


def accuracy(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    return sum(p == t for p, t in zip(predictions, labels, strict=True)) / len(labels)


def weighted_f1(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """F1 of each class that occurs among the labels, weighted by how often it does (FPB, FiQA SA)."""
    total = 0.0
    for name in set(labels):
        hits = sum(p == t == name for p, t in zip(predictions, labels, strict=True))
        said, there = sum(p == name for p in predictions), sum(t == name for t in labels)
        total += there * 2 * hits / (said + there)
    return total / len(labels)


def headline_f1(predictions: Sequence[Any], labels: Sequence[Any], classes: Sequence[Any]) -> float:
    """Headline: the weighted F1 of each kind of question, averaged over the kinds."""
    scores = []
    for kind in sorted(set(classes)):
        rows = [i for i, c in enumerate(classes) if c == kind]
        scores.append(weighted_f1([predictions[i] for i in rows], [labels[i] for i in rows]))
    return sum(scores) / len(scores)


def entities(text: str) -> set[tuple[str, str]]:
    """`name (TYPE), other name (TYPE)` -> its set of names with their types, without regard to case."""
    found = re.findall(r"([^(),;\n]+?)\s*\(\s*([A-Za-z]+)\s*\)", text)
    return {(" ".join(name.lower().split()), kind.upper()) for name, kind in found if name.strip()}


def entity_f1(generated: Sequence[str], gold: Sequence[str]) -> float:
    """NER: F1 over the named entities of each sentence, averaged over sentences; two empty sets agree."""
    scores = []
    for guess, truth in zip(map(entities, generated), map(entities, gold), strict=True):
        scores.append(2 * len(guess & truth) / (len(guess) + len(truth)) if guess or truth else 1.0)
    return sum(scores) / len(scores)


def amounts(text: str) -> list[float]:
    """The numbers of a text's first line; a percentage is a hundredth, a number in brackets is negative."""
    line = text.strip().split("\n")[0]
    values = []
    for match in re.finditer(r"(\()?\s*\$?\s*([-+]?\s?\$?)((?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?)\s*(%?)\s*(\))?", line):
        value = float(match[3].replace(",", ""))
        negative = "-" in match[2] or (match[1] and match[5])
        values.append((-value if negative else value) / (100 if match[4] else 1))
    return values


def convfinqa_right(generated: str, answer: str) -> bool:
    """ConvFinQA: some number of the first generated line is within .01 of the answer."""
    truth = amounts(answer)
    return bool(truth) and any(math.isclose(value, truth[0], rel_tol=0, abs_tol=1e-2) for value in amounts(generated))


def per_token_choice(log_likelihoods: Sequence[float], lengths: Sequence[int]) -> int:
    """The option whose tokens are likeliest on average, which is how AdaptLLM chooses. Lengths are in tokens."""
    scores = [likelihood / max(1, length) for likelihood, length in zip(log_likelihoods, lengths, strict=True)]
    return scores.index(max(scores))
