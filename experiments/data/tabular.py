"""Rows with named columns, from a file of a user or from a data set of the hub. Data are read, and no code is run.

Formats: JSON lines, a JSON array, CSV and TSV, Parquet. Values keep the types that the file gives them: a library that
guesses types would read the text `007` as a number and the text `2024-05-20` as a date.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, one_line, reason_of
from ..spec.checks import is_hub_data

LONGEST = 1 << 24  # characters of a line; a file with a longer line is no file of rows or documents
HEAD = 4 * LONGEST + 1  # bytes: more than any line has. A larger file is not read whole before its head is checked
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".json", ".jsonl", ".ndjson", ".jsonlines", ".jl")
COLUMNS = (*JSON_LINES, ".parquet", *DELIMITERS)  # the files that have rows with columns, by their suffix


def rows(source: str, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a source, each with the words that say where the row stands.

    Args:
        source: A file, or a data set of the hub: `owner/name`, `owner/name:config` or `owner/name:config:split`.
        setting: The name of the setting that holds the source, for messages.

    Raises:
        ConfigError: The source cannot be read, or a row has no columns.
    """
    if is_hub_data(source):
        return _hub(source, setting)
    suffix = Path(source).suffix.lower()
    if suffix == ".parquet":
        return _parquet(source, setting)
    if suffix in DELIMITERS:
        return _separated(source, setting, DELIMITERS[suffix])
    text = lines(source, setting)
    first = next((line for line in text if line.strip()), "")
    return (_json_array if first.lstrip().startswith("[") else _json_lines)(source, setting, text)


_expected: dict[str, str] = {}  # file -> the hash of the only content that may be read


@contextlib.contextmanager
def unchanged(expected: Mapping[str, str]) -> Iterator[None]:
    """Within the block, refuse to read other bytes from a file than those with this hash (file -> hash).

    The key of a run holds the hashes of its data files. A file is read again when the run trains, and may have been
    replaced by then. The bytes that are read are hashed, so no change between two reads goes unnoticed.
    """
    before = dict(_expected)
    _expected.update(expected)
    try:
        yield
    finally:
        _expected.clear()
        _expected.update(before)


def content(path: str, setting: str) -> bytes:
    """The bytes of a user's file.

    Raises:
        ConfigError: The file cannot be read, or has changed (see `unchanged`); or a large file is of another format.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(HEAD)
            if len(raw) == HEAD:
                _check_head(raw, path, setting)
                file.seek(0)
                raw = file.read()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None
    if path in _expected and short_sum(raw) != _expected[path]:
        raise ConfigError(
            f"{setting}: {path} has changed since this run began: its content is not the content in the key of the "
            "run; give the command again"
        )
    return raw


def _check_head(head: bytes, path: str, setting: str) -> None:
    if Path(path).suffix.lower() != ".parquet":
        _lines(head, path, setting, whole=False)
    elif not head.startswith(b"PAR1"):
        raise ConfigError(f"{setting}: {path}: not a Parquet file that can be read (it does not begin as one)")


def short_sum(raw: bytes) -> str:
    """A hash of bytes: 16 hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()[:16]


def lines(path: str, setting: str) -> list[str]:
    """The lines of a UTF-8 text file.

    Raises:
        ConfigError: The file cannot be read, or is no text.
    """
    return _lines(content(path, setting), path, setting)


def _lines(raw: bytes, path: str, setting: str, *, whole: bool = True) -> list[str]:
    """The lines in the bytes of a file, or in the beginning of a file."""
    raw = raw.removeprefix(codecs.BOM_UTF8)  # some editors write this mark
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw, whole).replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{setting}: {path}, line {number}: not UTF-8 text") from None
    for number, line in enumerate(text, 1):
        if "\0" in line:
            raise ConfigError(f"{setting}: {path}, line {number}: has a zero byte, so the file is no text")
        if len(line) > LONGEST:
            raise ConfigError(f"{setting}: {path}, line {number}: longer than {LONGEST:,} characters")
    return text


def is_json(text: list[str]) -> bool:
    """Whether lines, the first of which is not blank, are rows as JSON lines or as a JSON array."""
    try:
        if text[0].lstrip().startswith("["):
            values = json.loads("\n".join(text))
            return bool(values) and all(isinstance(value, dict) for value in values)
        return isinstance(json.loads(text[0]), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(path: str, setting: str, text: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text, 1):
        where = f"{setting}: {path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: not a JSON object on one line ({error})") from None
        yield where, _with_columns(row, where)


def _json_array(path: str, setting: str, text: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        values = json.loads("\n".join(text))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{setting}: {path}, line {error.lineno}: not a JSON array ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{setting}: {path}, line 1: not a JSON array ({error})") from None
    for number, row in enumerate(values, 1):
        where = f"{setting}: {path}, row {number}"
        yield where, _with_columns(row, where)


def _separated(path: str, setting: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    previous = csv.field_size_limit(LONGEST)
    try:
        table = csv.DictReader((line + "\n" for line in lines(path, setting)), delimiter=delimiter, strict=True)
        try:
            twice = [name for name, count in Counter(table.fieldnames or ()).items() if name and count > 1]
            if twice:
                raise ConfigError(f"{setting}: {path}, line 1: two columns have the name {twice[0][:30]!r}")
            for row in table:
                where = f"{setting}: {path}, line {table.line_num}"
                if None in row:
                    other = ";" if delimiter == "," else ","
                    hint = (
                        f"; the names are separated by {other!r}, and a file of this name by {delimiter!r}"
                        if any(other in (name or "") for name in table.fieldnames or ())
                        else ""
                    )
                    raise ConfigError(f"{where}: has more fields than the first line has names of columns{hint}")
                if any(value and value.strip() for value in row.values()):
                    yield where, dict(row)
        except csv.Error as error:
            raise ConfigError(f"{setting}: {path}, line {table.line_num}: not a row of a table ({error})") from None
    finally:
        csv.field_size_limit(previous)


def _parquet(path: str, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = content(path, setting)
    try:
        with pq.ParquetFile(io.BytesIO(raw)) as file:
            batches = [batch.to_pylist() for batch in file.iter_batches()]
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ConfigError(f"{setting}: {path}: not a Parquet file that can be read ({one_line(str(error))})") from None
    for number, row in enumerate((row for batch in batches for row in batch), 1):
        yield f"{setting}: {path}, row {number}", row


def _hub(source: str, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    try:
        table = load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # the client raises many unrelated types for a missing data set or network
        reason = reason_of(error)
        raise ConfigError(
            f"{setting}: there is no file {source}, and the hub gives no data set of this name ({reason})"
        ) from error
    for number, row in enumerate(table, 1):
        yield f"{setting}: {source}, row {number}", dict(row)


def _with_columns(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: must be a JSON object with named columns, got {repr(row)[:40]}")
    return row
