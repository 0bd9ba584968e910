"""Plain text in reading-comprehension form (AdaptLLM, arXiv 2309.09530), written anew from the published description.

AdaptLLM finds questions in a text with patterns, and appends the questions to the text: to sum the text up (from the
title), to write a sentence from words (from the keywords of the domain), about entailment, cause and effect (from
connectives), to paraphrase (from restatements), and to complete the text. A seed draws the wording of each question.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

VERSION = "reading-1"  # part of records: raise it when the form changes

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
# Connective -> relation between the sentence that the connective opens and the sentence before it.
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
    """The sentences of a text, which is split at line ends and where a capital follows a full stop."""
    return [part.strip() for part in _sentence.split(text) if part.strip()]


def keywords(documents: Sequence[str], background: Sequence[str], count: int = 2000) -> frozenset[str]:
    """The vocabulary of a domain: long words that its documents use more often than general text does.

    Args:
        documents: Texts of the domain.
        background: General texts.
        count: At most so many words.
    """

    def frequencies(texts: Sequence[str]) -> Counter[str]:
        return Counter(word for text in texts for word in {w.lower() for w in _long_word.findall(text)})

    in_domain, in_background = frequencies(documents), frequencies(background)
    ratio = len(documents) / max(1, len(background))
    scores = {word: n / (1 + ratio * in_background[word]) for word, n in in_domain.items() if n > 1}
    return frozenset(sorted(scores, key=lambda word: (-scores[word], word))[:count])


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
    """A text, followed by questions about the text and their answers.

    Args:
        text: The text.
        seed: Draws the wordings and the questions. The same seed gives the same result.
        domain: The domain in the questions.
        title: The title of the text, if it has one.
        vocabulary: Words of the domain (see `keywords`).
        own_questions: Questions that come with the text, and their answers. All of them are asked.
        limit: At most so many questions are asked.
    """
    draw = random.Random(f"{seed}-{text[:200]}")
    body, pairs = text.strip(), _questions(text, draw, domain, title, vocabulary)
    draw.shuffle(pairs)
    own = list((own_questions or {}).items())
    pairs = own + pairs[: max(0, limit - len(own))]
    parts = sentences(body)
    if not pairs and len(parts) >= 4:
        # No question was found: the first part of the text becomes the question, the rest the answer.
        cut = draw.randrange(1, len(parts) - 1)
        question, answer = draw.choice(COMPLETION)
        start, rest = " ".join(parts[:cut]), " ".join(parts[cut:])
        return question.format(start=start) + "\n" + answer.format(rest=rest)
    if not pairs:
        return body
    opening = draw.choice(OPENINGS).format(domain=domain, text=body)
    lines = [f"Question: {question}\nAnswer: {answer}" for question, answer in pairs]
    return "\n\n".join([opening, draw.choice(BRIDGES), *lines])


def _questions(
    text: str, draw: random.Random, domain: str, title: str | None, vocabulary: frozenset[str]
) -> list[tuple[str, str]]:
    """The questions that the patterns find in a text, and their answers."""
    pairs: list[tuple[str, str]] = []

    def ask(form: tuple[str, str], **words: str) -> None:
        pairs.append((form[0].format(**words), form[1].format(**words)))

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
    return pairs


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
