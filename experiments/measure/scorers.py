"""The scorers of the paper's benchmarks. A scorer takes texts or labels, and needs no model.

A score is a fraction in [0, 1].
"""

from __future__ import annotations

import ast
import contextlib
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

# A record holds the versions of its scorers. Raise a version when the scorer gives another score for any text.
VERSIONS = {
    "metamath": 2,
    "weighted_f1": 1,
    "headline_f1": 1,
    "entity_f1": 2,
    "convfinqa": 2,
    "per_token_choice": 1,
    "answer_match": 3,
}

ANSWER_MARK = "The answer is:"
_unsigned = r"(?:\d[\d,]*\.?\d*|\.\d+)(?:/\d+)?"
_number = re.compile("[-+]?" + _unsigned)
_signed = re.compile(r"(?:(?<![\w.)])[-+])?" + _unsigned)  # the hyphen in 5-7 is no sign of the 7
_scientific = re.compile(rf"({_signed.pattern})(?:[eE]([-+]?\d{{1,3}})(?!\w))?")
_mixed = re.compile(r"([-+]?)\s*(\d+)\s+(\d+)/(\d+)")


def marked_answer(text: str) -> str:
    """The text behind the last `The answer is:`, up to the end of its line; empty where the mark is missing."""
    _, mark, rest = text.rpartition(ANSWER_MARK)
    lines = rest.strip().splitlines()
    return lines[0].strip() if mark and lines else ""


def _exact(whole: str, top: str = "0", bottom: str = "1", sign: str = "") -> Fraction | None:
    """The value of `whole top/bottom`; None where the denominator is 0 or a part has too many digits.

    Python refuses to read an integer of more than 4,300 digits. A model can generate such an integer.
    """
    try:
        value = Fraction(whole) + Fraction(top) / Fraction(bottom)
    except (ValueError, ZeroDivisionError):
        return None
    return -value if sign == "-" else value


def _standard(text: str) -> str:
    r"""The text with hyphens as minus signs and both braces in LaTeX fractions: `\frac12` -> `\frac{1}{2}`."""
    text = re.sub(r"\\[td]?frac\s*", r"\\frac", text.replace("\N{MINUS SIGN}", "-"))
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\{[^{}]*\})([^{])", r"\\frac\1{\2}", text)
    return re.sub(r"\\frac([^{])(\{)", r"\\frac{\1}\2", text)


def number(text: str) -> Fraction | None:
    r"""The exact value of the first number in a text; None where the text has no number that Python can read.

    Commas between thousands, signs, decimals, fractions (`1/2`, `\frac12`) and mixed numbers (`1 1/2`, `1\frac12`) are
    read. Currency signs and units are ignored.
    """
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r" \1/\2", _standard(text))
    mixed = _mixed.search(text)
    match = _number.search(text.replace("- ", "-").replace("$", ""))
    if mixed and (not match or mixed.start(2) <= match.end()):
        sign, whole, top, bottom = mixed.groups()
        value = _exact(whole, top, bottom, sign)
        if value is not None:
            return value
    if not match:
        return None
    top, _, bottom = match.group().replace(",", "").rstrip(".").partition("/")
    return _exact("0", top, bottom or "1")


def gsm8k_right(generated: str, answer: str) -> bool:
    """MetaMath's rule for GSM8K: whether the number behind `The answer is:` has the value of the answer.

    MetaMath's own script rounds both numbers to integers first, and would take 3.4 for 3.
    """
    guess = number(marked_answer(generated))
    return guess is not None and guess == number(answer)


def tidy_latex(answer: str) -> str:
    """A MATH answer in a standard spelling.

    Spaces, units, text commands, dollar signs and sizes of brackets are removed; fractions and roots get braces.
    """
    text = answer.strip().rstrip(".").strip("$")
    for space in (r"\!", r"\,", r"\:", r"\;", r"\ ", "~"):
        text = text.replace(space, "")
    text = re.sub(r"\\text\s*\{\s*(?:and|or)\s*\}", ",", text)
    unit = r"(?<=[\d}])\s*\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\^(?:\d|\{\d\}))?"  # behind a number
    text = re.sub(unit, "", text)
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    for junk in (r"\left", r"\right", r"\$", "$", r"^\circ", r"^{\circ}", r"\%", "%"):
        text = text.replace(junk, "")
    text = text.replace(r"\cdot", "*").replace(r"\le ", "")
    text = _standard(re.sub(r"\s+", "", text))
    text = re.sub(r"\\sqrt([^{\[])", r"\\sqrt{\1}", text)
    text = re.sub(r"^[a-zA-Z]=", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text) if not re.search(r"[()\[\]{}]", text) else text
    text = re.sub(r"(?<!\d)\.(\d)", r"0.\1", text)
    text = re.sub(r"^(-?\d+)\.0+$", r"\1", text)
    return re.sub(r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", text)


def _value(answer: str) -> Fraction | None:
    """The value of an answer in the standard spelling; None where the answer is no number that Python can read."""
    if fraction := re.fullmatch(r"(-?)(\d*)\\frac\{(-?\d+)\}\{(-?\d+)\}", answer):
        sign, whole, top, bottom = fraction.groups()
        return _exact(whole or "0", top, bottom, sign)
    return _exact(answer) if re.fullmatch(r"-?\d+(?:\.\d+)?", answer) else None


def math_right(generated: str, answer: str) -> bool:
    """MetaMath's rule for MATH: whether the text behind `The answer is:` equals the answer, in spelling or value."""
    guess, truth = tidy_latex(marked_answer(generated)), tidy_latex(answer)
    if not guess:
        return False
    return guess == truth or (_value(guess) is not None and _value(guess) == _value(truth))


def weighted_f1(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """The F1 of each class, weighted by the number of its labels (FPB, FiQA SA)."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="weighted", zero_division=0.0))


def headline_f1(predictions: Sequence[Any], labels: Sequence[Any], kinds: Sequence[Any]) -> float:
    """Headline: the weighted F1 of each kind of question, averaged over the kinds."""
    scores = []
    for kind in sorted(set(kinds)):
        rows = [i for i, question_kind in enumerate(kinds) if question_kind == kind]
        scores.append(weighted_f1([predictions[i] for i in rows], [labels[i] for i in rows]))
    return sum(scores) / len(scores)


def entities(text: str) -> list[tuple[str, str]]:
    """The different names in a text such as `name (TYPE), other name (TYPE)`, with their types, by AdaptLLM's rule.

    A name is the one word before `(TYPE)`, with the signs that touch it: a name of several words counts by its last
    word. Upper and lower case differ.
    """
    return list(dict.fromkeys(re.findall(r"(\S+\s*)\s\((\S+)\)", text)))


def entity_f1(generated: Sequence[str], gold: Sequence[str]) -> float:
    """NER: the F1 of the entities of each sentence, averaged over the sentences, by AdaptLLM's rule.

    The F1 is that of the Message Understanding Conferences. An entity counts half for its text and half for its type.
    The type counts where the texts overlap; AdaptLLM gives every name the same place in the sentence, so all texts do.
    Each gold entity takes the first generated entity that has its text or its type. A sentence without entities scores
    0, whatever was generated.
    """
    scores = []
    for guess, truth in zip(map(entities, generated), map(entities, gold), strict=True):
        right = 0.0
        for name, kind in truth:
            halves = ((name == other) + (kind == other_kind) for other, other_kind in guess)
            right += next((half / 2 for half in halves if half), 0.0)
        scores.append(2 * right / (len(guess) + len(truth)) if right else 0.0)
    return sum(scores) / len(scores)


_amount = re.compile(r"[-+]?\.?\d+(?:,\d\d\d)*\.?\d*(?:[eE][-+]?\d+)?%*")


def amounts(text: str) -> list[float]:
    """The numbers in the first line of a text, as AdaptLLM reads them. A percent sign divides by 100.

    A minus sign counts only directly in front of the digits; brackets have no meaning. A number that is no literal of
    Python (007, 1.2.3) or that no float can hold is left out.
    """
    values = []
    for match in _amount.findall(text.split("\n")[0]):
        digits = match.rstrip("%")
        with contextlib.suppress(SyntaxError, ValueError, OverflowError):
            values.append(float(ast.literal_eval(digits.replace(",", ""))) / 100 ** (len(match) - len(digits)))
    return [value for value in values if math.isfinite(value)]


def convfinqa_right(generated: str, answer: str) -> bool:
    """ConvFinQA: whether some number in the first generated line is within 0.01 of the answer."""
    truth = amounts(answer)
    return bool(truth) and any(math.isclose(value, truth[0], abs_tol=1e-2) for value in amounts(generated))


def convfinqa_accuracy(generated: Sequence[str], gold: Sequence[str]) -> float:
    """ConvFinQA: the share of the generated answers that are right."""
    return sum(map(convfinqa_right, generated, gold)) / len(gold)


def last_number(text: str) -> Fraction | None:
    """The exact value of the last number in a text; None where the text has no number that Python can read.

    A sign behind a digit, a letter or a bracket belongs to no number: the last number of `5-7` is 7. A space ends a
    number. A number may have an exponent: `2.5e-3`.
    """
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r" \1/\2", _standard(text)).replace("$", "")
    numbers = _scientific.findall(text)
    if not numbers:
        return None
    digits, exponent = numbers[-1]
    value = number(digits)
    return value if value is None or not exponent else value * Fraction(10) ** int(exponent)


def answer_matches(kind: str, generated: str, answer: str) -> bool:
    """Whether a generated answer matches the right answer. A run of white space counts as one space.

    Args:
        kind: `exact`: both are the same text. `contains`: the right answer stands in the generated text. `number`: the
            last numbers of both have the same value.
        generated: The generated answer.
        answer: The right answer.
    """
    if kind == "number":
        guess = last_number(generated)
        return guess is not None and guess == last_number(answer)
    guessed, right = " ".join(generated.split()), " ".join(answer.split())
    return guessed == right if kind == "exact" else right in guessed
