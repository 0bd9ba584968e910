"""Reading-comprehension form of a plain text (AdaptLLM, arXiv 2309.09530), ours from the published description.

The paper mines questions from the text itself with patterns and appends them to it: summarisation from the title,
word-to-text from the domain's keywords, entailment and cause and effect from connectives, paraphrase from
restatements, and text completion. Every question is asked in one of several wordings, drawn by a seed.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

VERSION = "reading-1"  # recorded; raised when the form changes

_sentence = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z\"'(\[])|\n+")
_long_word = re.compile(r"[a-zA-Z][a-zA-Z-]{7,}")

OPENINGS = ("Here is a text about {domain}:\n{text}", "Read this {domain} article:\n{text}", "{text}")
BRIDGES = ("Answer the questions below:", "Now answer these questions about the text:", "Questions and answers:")
TITLE = (
    ("What is a fitting title for the text?", "{title}"),
    ("Sum up the text in one line.", "{title}"),
    ("Write the headline of this article.", "{title}"),
)
KEYWORDS = (
    ("Write a sentence with these words from {domain}: {words}.", "{sentence}"),
    ("How would you use {words} in one sentence about {domain}?", "{sentence}"),
)
# Connective -> relation of the sentence before it to the one that it opens.
CONNECTIVES = {
    "therefore": "entailment",
    "thus": "entailment",
    "hence": "entailment",
    "accordingly": "entailment",
    "furthermore": "neutral",
    "moreover": "neutral",
    "additionally": "neutral",
    "however": "contrast",
    "nevertheless": "contrast",
    "in contrast": "contrast",
    "in other words": "paraphrase",
    "that is": "paraphrase",
    "similarly": "similar",
    "likewise": "similar",
    "as a result": "effect",
    "consequently": "effect",
}
RELATIONS = {
    "entailment": ('"{first}" Does this mean that "{second}"?', "Yes"),
    "neutral": ('"{first}" Does this mean that "{second}"?', "Maybe"),
    "contrast": ('Do these two sentences agree? "{first}" "{second}"', "No, the second limits the first."),
    "paraphrase": ('Say this in other words: "{first}"', "{second}"),
    "similar": ('Name something that is similar to this: "{first}"', "{second}"),
    "effect": ('What follows from this? "{first}"', "{second}"),
}
CAUSE = (('Why is it that "{effect}"?', "Because {cause}."), ('What is the reason for this: "{effect}"?', "{cause}."))
COMPLETION = (
    ("How does a text go on that starts like this?\n{start}", "{rest}"),
    ("Complete the text:\n{start}", "{rest}"),
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, split where a capital follows a full stop; at line ends too."""
    return [part.strip() for part in _sentence.split(text) if part.strip()]


def keywords(documents: Sequence[str], background: Sequence[str], count: int = 2000) -> frozenset[str]:
    """Long words that the domain's documents use more than general text does: the domain's vocabulary."""

    def frequencies(texts: Sequence[str]) -> Counter[str]:
        return Counter(word for text in texts for word in {w.lower() for w in _long_word.findall(text)})

    here, there = frequencies(documents), frequencies(background)
    share = len(documents) / max(1, len(background))
    scored = {w: n / (1 + share * there[w]) for w, n in here.items() if n > 1}
    return frozenset(sorted(scored, key=lambda w: (-scored[w], w))[:count])


def comprehension(
    text: str,
    seed: int | str,
    domain: str,
    *,
    title: str | None = None,
    vocabulary: frozenset[str] = frozenset(),
    own_questions: Mapping[str, str] | None = None,
    limit: int = 6,
) -> str:
    """The text, followed by questions about it with their answers.

    Args:
        text: A document.
        seed: Decides wordings and which questions are kept; the same seed gives the same result.
        domain: Its name, as used in the questions.
        title: The document's title, if it has one.
        vocabulary: Words of the domain, for word-to-text questions (see `keywords`).
        own_questions: Questions that come with the document, and their answers. These are always kept.
        limit: At most so many questions are asked.
    """
    draw = random.Random(f"{seed}-{text[:200]}")
    body, asked = text.strip(), _mined(text, draw, domain, title, vocabulary)
    draw.shuffle(asked)
    own = list((own_questions or {}).items())
    asked = own + asked[: max(0, limit - len(own))]
    parts = sentences(body)
    if not asked and len(parts) >= 4:
        # Nothing to ask about: the text itself becomes the question, cut at a sentence.
        cut = draw.randrange(1, len(parts) - 1)
        question, answer = draw.choice(COMPLETION)
        start, rest = " ".join(parts[:cut]), " ".join(parts[cut:])
        return question.format(start=start) + "\n" + answer.format(rest=rest)
    if not asked:
        return body
    opening = draw.choice(OPENINGS).format(domain=domain, text=body)
    lines = [f"Question: {question}\nAnswer: {answer}" for question, answer in asked]
    return "\n\n".join([opening, draw.choice(BRIDGES), *lines])


def _mined(
    text: str, draw: random.Random, domain: str, title: str | None, vocabulary: frozenset[str]
) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def ask(form: tuple[str, str], **words: str) -> None:
        asked.append((form[0].format(**words), form[1].format(**words)))

    if title:
        ask(draw.choice(TITLE), title=title)
    parts = sentences(text)
    for sentence in parts:
        words = sorted({w.lower() for w in _long_word.findall(sentence)} & vocabulary)
        if len(words) >= 3 and len(sentence) < 400:
            ask(draw.choice(KEYWORDS), domain=domain, words=", ".join(draw.sample(words, 3)), sentence=sentence)
        because = re.match(r"(.{20,}?),? (?:because(?! of)|since it) (.{15,}?)[.!]?$", sentence)
        if because:
            ask(draw.choice(CAUSE), effect=_capital(because[1]) + ".", cause=because[2])
    for first, second in itertools.pairwise(parts):
        for connective, relation in CONNECTIVES.items():
            if re.match(rf"{connective},? ", second, flags=re.I):
                rest = re.sub(rf"^{connective},? ", "", second, flags=re.I)
                ask(RELATIONS[relation], first=first, second=_capital(rest))
    return asked


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
