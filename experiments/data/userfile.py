"""The training data of a user: the file `task.train_file`. An error names the line of the file."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .prompts import Message, pair

ALPACA_ROLES = (["user", "assistant"], ["system", "user", "assistant"])
LONGEST = 1 << 24  # characters of a line; a file with a longer line is no file of rows or documents
PAIRS = (("instruction", "output"), ("query", "response"))  # the columns of Alpaca and of MetaMath


def checked(path: str, form: str | None) -> str:
    """Check a file, and hash its content. The hash is part of a run's key; the place of the file is not.

    Args:
        path: The file.
        form: `task.prompt` for a task that trains on conversations; None for a task that trains on documents.

    Raises:
        ConfigError: The file cannot be read, or a line is wrong.
    """
    digest = _short_sum(content(path))
    with unchanged(path, digest):
        if form:
            conversations(path, form)
        else:
            documents(path)
    return digest


_expected: dict[str, str] = {}  # file -> the hash of the only content that may be read


@contextlib.contextmanager
def unchanged(path: str | None, expected: str) -> Iterator[None]:
    """Within the block, refuse to read other bytes from the file `path` than those whose hash is `expected`.

    The key of a run holds the hash of the training file. The file is read again when the run trains, and may have been
    replaced by then. The bytes that are read are hashed, so no change between two reads goes unnoticed.
    """
    if path is None:
        yield
        return
    before = dict(_expected)
    _expected[path] = expected
    try:
        yield
    finally:
        _expected.clear()
        _expected.update(before)


def content(path: str) -> bytes:
    """The bytes of a user's file.

    Raises:
        ConfigError: The file cannot be read, or has changed; see `unchanged`.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"task.train_file: cannot read {path}: {error.strerror}") from None
    if path in _expected and _short_sum(raw) != _expected[path]:
        raise ConfigError(
            f"task.train_file: {path} has changed since this run began: its content is not the content in the key of "
            "the run; give the command again"
        )
    return raw


def _short_sum(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def conversations(path: str, form: str) -> list[list[Message]]:
    """The rows of a JSON-lines file as conversations.

    The columns of a row are `instruction`, `output` and perhaps `input`; or `query` and `response`; or `messages`.

    Raises:
        ConfigError: The file is empty, or a line has other columns or wrong values.
    """
    rows = []
    for where, row in _json_lines(path):
        messages = _conversation(row, where)
        if form == "alpaca" and [m["role"] for m in messages] not in ALPACA_ROLES:
            raise ConfigError(
                f"{where}: task.prompt=alpaca has room for one question and one answer only; use open-instruct"
            )
        rows.append(messages)
    return _not_empty(rows, path)


def documents(path: str) -> list[str]:
    """The documents of a text file, with blank lines between them, or of a JSON-lines file with a column `text`.

    Raises:
        ConfigError: The file is empty, or a line has no text.
    """
    if Path(path).suffix in (".jsonl", ".json"):
        return _not_empty([_text(row, "text", where) for where, row in _json_lines(path)], path)
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", "\n".join(_lines(path)))]
    return _not_empty([text for text in paragraphs if text], path)


def _not_empty(rows: list[Any], path: str) -> list[Any]:
    if not rows:
        raise ConfigError(f"task.train_file: {path} is empty")
    return rows


def _lines(path: str) -> list[str]:
    raw = content(path).removeprefix(codecs.BOM_UTF8)  # some editors write this mark
    try:
        lines = raw.decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"task.train_file: {path}, line {line}: not UTF-8 text") from None
    for number, text in enumerate(lines, 1):
        if "\0" in text:
            raise ConfigError(f"task.train_file: {path}, line {number}: has a zero byte, so the file is no text")
        if len(text) > LONGEST:
            raise ConfigError(f"task.train_file: {path}, line {number}: longer than {LONGEST:,} characters")
    return lines


def _json_lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        where = f"task.train_file: {path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: not a JSON object on one line ({error})") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: must be a JSON object with named columns, got {line[:40]!r}")
        yield where, row


def _text(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise ConfigError(f"{where}: column {column} is missing; found: {_columns(row)}")
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: column {column} must be a text that is not empty, got {_short(value)}")
    if any("\ud800" <= c <= "\udfff" for c in value):  # JSON can express these; no tokenizer accepts them
        raise ConfigError(f"{where}: column {column} has half of a surrogate pair, which is no character")
    return value


def _columns(row: dict[str, Any]) -> str:
    return ", ".join(repr(name)[1:-1][:60] for name in [*row][:8]) or "none"


def _short(value: Any) -> str:
    return repr(value)[:60]


def _conversation(row: dict[str, Any], where: str) -> list[Message]:
    if "messages" in row:
        return _messages(row["messages"], where)
    for question, answer in PAIRS:
        if question in row:
            context = row.get("input") or ""
            if not isinstance(context, str):
                raise ConfigError(f"{where}: column input must be a text, got {_short(context)}")
            if context.strip():
                _text(row, "input", where)
            return pair(_text(row, question, where), _text(row, answer, where), context)
    allowed = "; ".join(f"{q} and {a}" for q, a in PAIRS)
    raise ConfigError(f"{where}: needs the columns {allowed}; or messages; found: {_columns(row)}")


def _messages(messages: Any, where: str) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"{where}: messages must be a list that is not empty")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise ConfigError(f"{where}: each message needs a role: system, user or assistant")
        _text(message, "content", where)
    if all(message["role"] != "assistant" for message in messages):
        raise ConfigError(f"{where}: no message has the role assistant, so there is no answer to learn")
    return [{"role": m["role"], "content": m["content"]} for m in messages]
