"""No overlap between what trains and what is measured: shared runs of 13 words."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
WORDS = 13  # the length that GPT-3 and much of the work after it uses
_word = re.compile(r"[^\W_]+")


def grams(text: str) -> set[str]:
    """All runs of 13 words, in lower case and without punctuation; a shorter text is one run by itself."""
    words = _word.findall(text.lower())
    if len(words) <= WORDS:
        return {" ".join(words)} if words else set()
    return {" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def overlaps(texts: Iterable[str], measured: Iterable[str]) -> Iterator[bool]:
    """For each text, whether it shares a run of words with any measured text."""
    seen = set().union(*map(grams, measured))
    return (not seen.isdisjoint(grams(text)) for text in texts)


def filtered(
    task: str,
    train: Iterable[T],
    text: Callable[[T], str],
    measured: Iterable[str],
    drop: bool | None,
    limit: int | None = None,
) -> tuple[list[T], dict[str, int]]:
    """The training items that share no run of words with what is measured, and what was found, for the record.

    Args:
        task: Its name, for the line that says what was dropped.
        train: Training items.
        text: What is compared of an item.
        measured: All that the task measures on.
        drop: Whether to leave overlapping items out, or only to count them.
        limit: As many items are wanted; the rest is not looked at.
    """
    items, checked, overlapping = [], 0, 0
    ours, theirs = itertools.tee(train)
    for item, shared in zip(ours, overlaps(map(text, theirs), measured), strict=True):
        checked += 1
        overlapping += shared
        if not (shared and drop):
            items.append(item)
            if len(items) == limit:
                break
    if overlapping:
        what = "dropped" if drop else "kept, as published,"
        print(
            f"{task}: {what} {overlapping} of {checked} training texts that share {WORDS} words in a row with what "
            "is measured",
            file=sys.stderr,
        )
    return items, {"checked": checked, "overlapping": overlapping, "dropped": overlapping if drop else 0}
