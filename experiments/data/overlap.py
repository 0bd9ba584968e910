"""Overlap between what trains and what is measured: two texts overlap if they share 13 words in a row."""

from __future__ import annotations

import itertools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ..spec import ranks

T = TypeVar("T")
WORDS = 13  # as in GPT-3's check of its training data
_word = re.compile(r"[^\W_]+")


class _Separators(dict[int, int | str]):
    """For `str.translate`: punctuation becomes a space. Letters, digits, marks (vowel signs) and symbols stay."""

    def __missing__(self, code: int) -> int | str:
        self[code] = " " if unicodedata.category(chr(code))[0] == "P" else code
        return self[code]


_separators = _Separators()


def words_of(text: str) -> list[str]:
    """The words of a user's text in any script, in lower case. An emoji is a word, or a part of a word."""
    return text.lower().translate(_separators).split()


def grams(text: str) -> set[str]:
    """All runs of 13 words in lower case, without punctuation. A shorter text is a single run."""
    words = _word.findall(text.lower())
    return {" ".join(run) for run in _runs(words) or ([tuple(words)] if words else [])}


def overlaps(texts: Iterable[str], measured: Iterable[str]) -> Iterator[bool]:
    """For each text, whether it overlaps with a measured text."""
    measured_grams = set().union(*map(grams, measured))
    return (not measured_grams.isdisjoint(grams(text)) for text in texts)


FRAME_TEXTS, FRAME_SHARE = 5, 0.01


def repetitions(texts: Sequence[str], measured: Iterable[str]) -> list[bool]:
    """For each text of a user, whether it repeats a measured text: the whole of it, or 13 words in a row.

    Rows of a user's data often share words: a system message, an instruction, a greeting. So a run of words that more
    than 5 texts and more than 1 % of the texts have is a frame, and words in a frame do not count.
    """
    measured_words = [words_of(text) for text in measured]
    measured_runs = set().union(*map(_runs, measured_words))
    whole = set(map(tuple, measured_words))
    words = [words_of(text) for text in texts]
    counts = Counter(run for text in words for run in {*_runs(text)} & measured_runs)
    limit = max(FRAME_TEXTS, FRAME_SHARE * len(texts))
    frames = {run for run, count in counts.items() if count > limit}
    return [tuple(text) in whole or _repeats(_runs(text), measured_runs, frames) for text in words]


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    """All runs of 13 words, by the place of their first word."""
    return [tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)]


def _repeats(runs: Sequence[tuple[str, ...]], measured: set[tuple[str, ...]], frames: set[tuple[str, ...]]) -> bool:
    framed = {place for i, run in enumerate(runs) if run in frames for place in range(i, i + WORDS)}
    return any(run in measured and framed.isdisjoint(range(i, i + WORDS)) for i, run in enumerate(runs))


def filtered(
    task: str,
    train: Iterable[T],
    text: Callable[[T], str],
    measured: Iterable[str],
    drop: bool | None,
    limit: int | None = None,
) -> tuple[list[T], dict[str, int]]:
    """The training items that do not overlap with what is measured.

    Args:
        task: The name of the task, for the message that says how many items were dropped.
        train: The training items.
        text: The text of an item that is compared.
        measured: All texts that the task measures on.
        drop: Whether to drop the items that overlap, or only to count them.
        limit: Stop when there are so many items; None: look at all items.

    Returns:
        The items, and for the record: how many items were checked, how many overlap, how many were dropped.
    """
    items, checked, overlapping = [], 0, 0
    train, compared = itertools.tee(train)
    for item, overlapped in zip(train, overlaps(map(text, compared), measured), strict=True):
        checked += 1
        overlapping += overlapped
        if not (overlapped and drop):
            items.append(item)
            if len(items) == limit:
                break
    if overlapping and ranks.first():
        action = "dropped" if drop else "kept, as published,"
        print(
            f"{task}: {action} {overlapping} of {checked} training texts that share {WORDS} words in a row with what "
            "is measured",
            file=sys.stderr,
        )
    return items, {"checked": checked, "overlapping": overlapping, "dropped": overlapping if drop else 0}
