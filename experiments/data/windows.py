"""Plain text as windows: documents are joined with end tokens and cut every `length` tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .rows import Rows, cached, end_token, fingerprint, tokenizer_fingerprint


def windows(documents: Iterable[str], tokenizer: Any, length: int, *, keep_rest: bool) -> Iterator[list[int]]:
    """Windows of `length` token ids from a stream of documents, with an end token behind each document.

    Args:
        documents: Texts.
        tokenizer: A tokenizer that has an end token. It adds no special tokens of its own.
        length: Tokens a window.
        keep_rest: Whether the last tokens, which do not fill a window, become a shorter window.

    Raises:
        ConfigError: The tokenizer has no end token.
    """
    end_token(tokenizer)
    buffer: list[int] = []
    for document in documents:
        buffer += tokenizer.encode(document, add_special_tokens=False)
        buffer.append(tokenizer.eos_token_id)
        full = len(buffer) // length * length
        for start in range(0, full, length):
            yield buffer[start : start + length]
        del buffer[:full]  # once for each document: once for each window would take quadratic time
    if keep_rest and len(buffer) > 1:
        yield buffer


def packed(documents: list[str], tokenizer: Any, length: int, cache: Path, *, keep_rest: bool = False) -> Rows:
    """The windows of documents as rows, cached. The loss counts on every token.

    Raises:
        ConfigError: The documents do not fill one window, or the tokenizer has no end token.
    """
    if documents:
        end_token(tokenizer)
    key = fingerprint("packed", documents, tokenizer_fingerprint(tokenizer), length, keep_rest)
    rows = cached(
        cache,
        key,
        lambda: Rows.of((ids, [True] * len(ids)) for ids in windows(documents, tokenizer, length, keep_rest=keep_rest)),
    )
    if documents and not len(rows):
        raise ConfigError(f"task.max_length: {len(documents)} documents do not fill one window of {length} tokens")
    return rows
