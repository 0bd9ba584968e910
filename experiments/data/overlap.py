"""Overlap between what trains and what is measured: two texts overlap if they share 13 words in a row."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
WORDS = 13  # as in GPT-3's check of its training data
_word = re.compile(r"[^\W_]+")


def grams(text: str) -> set[str]:
    """All runs of 13 words in lower case, without punctuation. A shorter text is a single run."""
    words = _word.findall(text.lower())
    if len(words) <= WORDS:
        return {" ".join(words)} if words else set()
    return {" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def overlaps(texts: Iterable[str], measured: Iterable[str]) -> Iterator[bool]:
    """For each text, whether it overlaps with a measured text."""
    measured_grams = set().union(*map(grams, measured))
    return (not measured_grams.isdisjoint(grams(text)) for text in texts)


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
    if overlapping:
        action = "dropped" if drop else "kept, as published,"
        print(
            f"{task}: {action} {overlapping} of {checked} training texts that share {WORDS} words in a row with what "
            "is measured",
            file=sys.stderr,
        )
    return items, {"checked": checked, "overlapping": overlapping, "dropped": overlapping if drop else 0}
