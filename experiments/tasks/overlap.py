"""No overlap between what trains and what is measured: shared runs of 13 words."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
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


def clean(train: Sequence[str], measured: Iterable[str]) -> list[int]:
    """The indices of the training texts that share no run of words with any measured text."""
    seen = set().union(*map(grams, measured))
    return [i for i, text in enumerate(train) if seen.isdisjoint(grams(text))]


def filtered(
    task: str, train: Sequence[T], text: Callable[[T], str], measured: Iterable[str], drop: bool | None
) -> tuple[list[T], dict[str, int]]:
    """The training items that share no run of words with what is measured, and what was found, for the record.

    Args:
        task: Its name, for the line that says what was dropped.
        train: Training items.
        text: What is compared of an item.
        measured: All that the task measures on.
        drop: Whether to leave overlapping items out, or only to count them.
    """
    kept = clean([text(item) for item in train], measured)
    overlapping = len(train) - len(kept)
    if overlapping:
        what = "dropped" if drop else "kept, as published,"
        print(
            f"{task}: {what} {overlapping} of {len(train)} training texts that share {WORDS} words in a row with what "
            "is measured",
            file=sys.stderr,
        )
    items = [train[i] for i in kept] if drop else list(train)
    return items, {"checked": len(train), "overlapping": overlapping, "dropped": overlapping if drop else 0}
