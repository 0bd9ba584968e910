"""The data of a user: `task.train_file` and `task.heldout_file`. An error names the line or the row."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..spec.checks import is_hub_data
from ..spec.run_config import TaskSettings
from . import tabular
from .prompts import PUBLISHED, Message, pair

TRAIN, HELD_OUT = "task.train_file", "task.heldout_file"
ALPACA_ROLES = (["user", "assistant"], ["system", "user", "assistant"])
# The columns of a question and its answer: of Alpaca, of MetaMath, of TRL, of GSM8K.
PAIRS = (("instruction", "output"), ("query", "response"), ("prompt", "completion"), ("question", "answer"))
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
FORMATS = {"chat": ("messages", "conversations"), "completion": tuple(q for q, _ in PAIRS), "text": ("text",)}
ANSWERS = (*FORMATS["chat"], *FORMATS["completion"])  # of these columns the first that a row has is read


class EmptyError(ConfigError):
    """A text of a row is empty."""


@dataclass(frozen=True)
class UserData:
    """What a file of a user holds.

    Attributes:
        items: Conversations, or texts.
        are_texts: Whether the items are texts.
        empty: How many rows were left out because a text in the row is empty.
        unread: The columns of the first row that are not read.
    """

    items: list[Any]
    are_texts: bool
    empty: int
    unread: tuple[str, ...] = ()


def read(source: str, setting: str, form: str | None, row_format: str) -> UserData:
    """The rows of a source as conversations, or as texts.

    Args:
        source: A file, or a data set of the hub; see `tabular.rows`. A file with another suffix than those of tables
            holds texts with blank lines between them.
        setting: The name of the setting that holds the source, for messages.
        form: `task.prompt`.
        row_format: `chat`, `completion` or `text`; `auto`: the format of the first row's columns.

    Raises:
        ConfigError: The source has no rows, a row has other columns or wrong values, or every row has an empty text.
    """
    if row_format in ("auto", "text") and not is_hub_data(source) and _is_plain_text(source):
        return UserData(documents(source, setting), True, 0)
    items: list[Any] = []
    empty, first = 0, ""
    are_texts: bool | None = None
    unread: tuple[str, ...] = ()
    columns = None if row_format == "auto" else FORMATS[row_format]
    for where, row in tabular.rows(source, setting):
        if are_texts is None:
            are_texts = (_format_of(row, where) if row_format == "auto" else row_format) == "text"
            unread = _unread(row, ("text",) if are_texts else columns or ANSWERS)
        try:
            items.append(_text(row, "text", where) if are_texts else _conversation(row, where, form, columns))
        except EmptyError as error:
            empty, first = empty + 1, first or str(error)
    if empty and not items:
        raise ConfigError(first + (f"; and so in all {empty} rows" if empty > 1 else ""))
    return UserData(_not_empty(items, source, setting), bool(are_texts), empty, unread)


def _unread(row: dict[str, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a row that are not read, where the first of `columns` that the row has is read."""
    first = next((column for column in columns if column in row), "")
    used = {first, dict(PAIRS).get(first), "input" if first in dict(PAIRS) else None}
    return tuple(repr(name)[1:-1] for name in row if name not in used)


def checked(source: str, setting: str, form: str | None, row_format: str | None = None) -> str:
    """Check a file, and hash its content. The hash is part of a run's key; the place of the file is not.

    A data set of the hub is known by its name, and is not read before the run.

    Args:
        source: The file, or the data set.
        setting: The name of the setting that holds the source.
        form: `task.prompt` for a task that trains on conversations; None for a task that trains on documents.
        row_format: For a task that reads several formats: `task.format`.

    Raises:
        ConfigError: The file cannot be read, or a line is wrong.
    """
    if is_hub_data(source):
        return source
    digest = tabular.short_sum(tabular.content(source, setting))
    with tabular.unchanged({source: digest}):
        _check(source, setting, form, row_format, digest)
    return digest


@functools.lru_cache(maxsize=64)
def _check(source: str, setting: str, form: str | None, row_format: str | None, content: str) -> None:
    """Read a file with this content, once in a process: the cells of a study share their files."""
    if row_format:
        read(source, setting, form, row_format)
    elif form:
        conversations(source, form, setting)
    else:
        documents(source, setting)


def unchanged(settings: TaskSettings, identity: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Within the block, the files of a run may only be read with the content that the run's identity has."""
    files = ((settings.train_file, "data"), (settings.heldout_file, "heldout"))
    return tabular.unchanged({file: identity[name] for file, name in files if file and not is_hub_data(file)})


def conversations(source: str, form: str, setting: str = TRAIN) -> list[list[Message]]:
    """The rows of a source as conversations.

    The columns of a row are `messages` (of `role` and `content`); `conversations` (ShareGPT's `from` and `value`); or
    those of a question and its answer (`PAIRS`), with Alpaca's `input` where there is one.

    Raises:
        ConfigError: The source is empty, or a row has other columns or wrong values.
    """
    rows = [_conversation(row, where, form) for where, row in tabular.rows(source, setting)]
    return _not_empty(rows, source, setting)


def documents(source: str, setting: str = TRAIN) -> list[str]:
    """The documents of a text file, with blank lines between them, or of a source with a column `text`.

    Raises:
        ConfigError: The source is empty, or a row has no text; or a file of JSON has the name of a text file.
    """
    if is_hub_data(source) or not _is_plain_text(source):
        return _not_empty([_text(row, "text", where) for where, row in tabular.rows(source, setting)], source, setting)
    lines = tabular.lines(source, setting)
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is not None and tabular.is_json(lines[first:]):
        raise ConfigError(
            f"{setting}: {source}, line {first + 1}: holds JSON, and the name of the file is that of a text; allowed "
            f"for rows in JSON: {', '.join(tabular.JSON_LINES)}"
        )
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", "\n".join(lines))]
    return _not_empty([text for text in paragraphs if text], source, setting)


def _is_plain_text(path: str) -> bool:
    return Path(path).suffix.lower() not in tabular.COLUMNS


def _not_empty(rows: list[Any], source: str, setting: str) -> list[Any]:
    if not rows:
        raise ConfigError(f"{setting}: {source} is empty")
    return rows


def _text(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise ConfigError(f"{where}: column {column} is missing; found: {_columns(row)}")
    value = row[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise EmptyError(f"{where}: column {column} must be a text that is not empty, got {_short(value)}")
    if not isinstance(value, str):
        raise ConfigError(f"{where}: column {column} must be a text that is not empty, got {_short(value)}")
    if any("\ud800" <= c <= "\udfff" for c in value):  # JSON can express these; no tokenizer accepts them
        raise ConfigError(f"{where}: column {column} has half of a surrogate pair, which is no character")
    return value


def _columns(row: dict[str, Any]) -> str:
    return ", ".join(repr(name)[1:-1][:30] for name in [*row][:8]) or "none"


def _short(value: Any) -> str:
    return repr(value)[:60]


def _format_of(row: dict[str, Any], where: str) -> str:
    for name, columns in FORMATS.items():
        if any(column in row for column in columns):
            return name
    raise ConfigError(f"{where}: needs the columns {_allowed()}; or text; found: {_columns(row)}")


def _allowed() -> str:
    return "; ".join([*(f"{question} and {answer}" for question, answer in PAIRS), "conversations; or messages"])


def _conversation(
    row: dict[str, Any], where: str, form: str | None, columns: tuple[str, ...] | None = None
) -> list[Message]:
    """A row as messages.

    Args:
        row: The row.
        where: Where the row stands, in words.
        form: `task.prompt`.
        columns: The columns that may hold the conversation; None: any that is known.
    """
    messages = _messages_of(row, where, form, columns or ANSWERS)
    if form == "alpaca" and [m["role"] for m in messages] not in ALPACA_ROLES:
        raise ConfigError(
            f"{where}: task.prompt=alpaca has room for one question and one answer only; use open-instruct"
        )
    if form == "raw" and [m["role"] for m in messages] != ["user", "assistant"]:
        raise ConfigError(f"{where}: task.prompt=raw joins one question and one answer, and has no place for more")
    return messages


def _messages_of(row: dict[str, Any], where: str, form: str | None, columns: tuple[str, ...]) -> list[Message]:
    if "messages" in columns and "messages" in row:
        return _messages(row["messages"], where)
    if "conversations" in columns and "conversations" in row:
        return _messages(row["conversations"], where, sharegpt=True)
    for question, answer in PAIRS:
        if question in columns and question in row:
            if isinstance(row[question], list) and isinstance(row.get(answer), list):  # TRL's form for chat models
                return _messages(row[question] + row[answer], where)
            context = row.get("input") or ""
            if not isinstance(context, str):
                raise ConfigError(f"{where}: column input must be a text, got {_short(context)}")
            if context.strip():
                _text(row, "input", where)
            asked, answered = _text(row, question, where), _text(row, answer, where)
            if form not in PUBLISHED and context.strip():
                return pair(f"{asked}\n\n{context}", answered)
            return pair(asked, answered, context)
    allowed = _allowed() if len(columns) > 4 else " or ".join(columns)
    raise ConfigError(f"{where}: needs the columns {allowed}; found: {_columns(row)}")


def _messages(messages: Any, where: str, *, sharegpt: bool = False) -> list[Message]:
    name = "conversations" if sharegpt else "messages"
    if isinstance(messages, str):
        raise ConfigError(
            f"{where}: {name} must be a list, and is a text; a table of text such as CSV holds no chats: use JSON "
            "lines, or the columns of a question and its answer"
        )
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"{where}: {name} must be a list that is not empty")
    rows = [_message(message, where, sharegpt) for message in messages if not _says_nothing(message)]
    if all(message["role"] != "assistant" for message in rows):
        speaker = "comes from gpt" if sharegpt else "has the role assistant"
        raise ConfigError(f"{where}: no message {speaker}, so there is no answer to learn")
    return rows


def _says_nothing(message: Any) -> bool:
    """Whether a message is the empty system message that many exports of chats begin with."""
    if not isinstance(message, dict) or "system" not in (message.get("role"), message.get("from")):
        return False
    content = message.get("content", message.get("value", message))
    return content is None or (isinstance(content, str) and not content.strip())


def _message(message: Any, where: str, sharegpt: bool) -> Message:
    role, content = ("from", "value") if sharegpt else ("role", "content")
    roles = SHAREGPT_ROLES if sharegpt else {name: name for name in ("system", "user", "assistant")}
    spoken = message.get(role) if isinstance(message, dict) else None
    if not isinstance(spoken, str) or spoken not in roles:
        named = "a `from`: system, human or gpt" if sharegpt else "a role: system, user or assistant"
        raise ConfigError(f"{where}: each message needs {named}")
    return {"role": roles[spoken], "content": _text(message, content, where)}
