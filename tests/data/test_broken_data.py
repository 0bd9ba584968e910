"""Thousands of broken data files: each loader gives a result or one line, never a traceback."""

import csv
import io
import json
import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import files
from experiments.data import prompts, rows, tabular, userfile, windows
from experiments.errors import ConfigError
from experiments.spec import shapes

from .. import mutations
from .tokenizers_of import byte_level

MUTATIONS = 6000
ROWS = [
    {"instruction": "Add 1 and 2.", "input": "", "output": "It is 3."},
    {"query": "What is \u03b1?", "response": "A letter.\n\nThe first one."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "  Hello "}]},
    {"text": "A document of several words. It has two sentences."},
]
SUFFIXES = (*tabular.COLUMNS, ".JSONL", ".txt", ".md", "")
FORMS = ("alpaca", "open-instruct", None)
ROW_FORMATS = ("auto", "chat", "completion", "text", None, None)  # None: a task of one format, not task=custom


def json_lines(table, draw):
    return draw.choice((b"\n", b"\r\n", b"\n\n")).join(json.dumps(row).encode() for row in table)


def json_array(table, draw):
    return json.dumps(table, indent=draw.choice((None, 1))).encode()


def separated(delimiter):
    def write(table, draw):
        text = io.StringIO()
        names = dict.fromkeys(name for row in table for name in row)
        quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        writer = csv.DictWriter(text, [*names], delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(table)
        return text.getvalue().encode("utf-8", "replace")

    return write


def parquet(table, draw):
    file = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(table), file)
    except (pa.ArrowException, OverflowError, UnicodeError):  # Parquet holds fewer values than JSON
        return parquet([draw.choice(ROWS)], draw)
    return file.getvalue()


def plain_text(table, draw):
    return "\n\n".join(str(value) for row in table for value in row.values()).encode("utf-8", "replace")


WRITERS = {".csv": separated(","), ".tsv": separated("\t"), ".parquet": parquet, ".txt": plain_text, ".md": plain_text}
WRITERS |= {"": plain_text}


def broken(draw, suffix):
    """A file of rows or of documents in the format of its suffix, changed in its values, in its bytes or in neither."""
    kind = draw.choice(ROWS)
    table = [kind if draw.random() < 0.8 else draw.choice(ROWS) for _ in range(draw.randrange(1, 5))]
    if draw.random() < 0.5:
        table = [mutations.changed(row, draw, draw.choice((0, 1, 2))) for row in table]
    write = WRITERS.get(suffix, draw.choice((json_lines, json_array)))
    if draw.random() < 0.1:
        write = draw.choice((json_lines, json_array, *WRITERS.values()))  # another format than the suffix says
    content = write(table, draw)
    return mutations.damaged(content, draw) if draw.random() < 0.5 else content


def loaded(path, form, row_format, tokenizer, cache):
    """Load a file as a run does: the check for the key, the rows, their tokens."""
    source, setting = str(path), userfile.TRAIN
    with tabular.unchanged({source: userfile.checked(source, setting, form, row_format)}):
        if row_format:
            data = userfile.read(source, setting, form, row_format)
            items, are_texts = data.items, data.are_texts
        else:
            are_texts = not form
            items = userfile.documents(source) if are_texts else userfile.conversations(source, form)
        if are_texts:
            return windows.packed(items, tokenizer, 16, cache, keep_rest=True)
        return prompts.supervised(items, form or "open-instruct", tokenizer, 400, cache)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise(
    "A data file of any bytes is read, or refused in a message that names the file and the line, never in a traceback."
)
def test_thousands_of_broken_data_files(tmp_path, monkeypatch, counted):
    monkeypatch.setattr(files, "flush", lambda path: None)  # thousands of files of the cache
    draw, tokenizer = random.Random(0), byte_level()
    read, refused = Counter(), Counter()
    odd: list[str] = []
    for _ in range(MUTATIONS):
        suffix = draw.choice(SUFFIXES)
        path = tmp_path / f"data{suffix}"
        path.write_bytes(broken(draw, suffix))
        try:
            assert len(loaded(path, draw.choice(FORMS), draw.choice(ROW_FORMATS), tokenizer, tmp_path))
            read[suffix] += 1
        except ConfigError as error:
            refused[suffix] += 1
            text = str(error)
            if not text.startswith("task.") or len(text.splitlines()) > 1 or len(text) > 1000:
                odd.append(text)
    assert odd == []
    assert min(min(count[suffix] for suffix in SUFFIXES) for count in (read, refused)) > MUTATIONS / len(SUFFIXES) / 20
    counted(read.total() + refused.total(), "data files")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise("Cached rows whose file was damaged are built again, and a warning names the file.")
def test_thousands_of_damaged_files_of_the_cache(tmp_path, capsys, counted):
    original = rows.Rows.of([([1, 2, 3], [False, True, True]), ([4, 5], [True, True])])
    assert len(rows.cached(tmp_path, "k", lambda: original)) == 2
    (path,) = (tmp_path / "rows").iterdir()
    content, draw, damages = path.read_bytes(), random.Random(0), 0
    for _ in range(MUTATIONS // 4):
        path.write_bytes(mutations.damaged(content, draw))
        again = rows.cached(tmp_path, "k", lambda: original)
        assert again.sum == original.sum
        damages += path.name in capsys.readouterr().err
    assert damages > MUTATIONS / 8
    counted(damages, "damaged cache files")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_broken_configurations_and_memories_of_sums(tmp_path, monkeypatch):
    """Neither the shape of a model folder nor the sums of its files end in a traceback."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config, draw = json.dumps(dict.fromkeys(sizes, 8)).encode(), random.Random(0)
    (tmp_path / "weights").write_bytes(b"weights")
    expected = files.sha256(tmp_path / "weights")
    monkeypatch.setattr(files, "SETTLED", -1.0)
    monkeypatch.setattr(files, "_sums", {})
    files.sums([tmp_path / "weights"], tmp_path / "sums.json")
    memory = (tmp_path / "sums.json").read_bytes()
    monkeypatch.setattr(files, "write_summed", lambda *_: None)  # thousands of files
    for _ in range(MUTATIONS):
        (tmp_path / "config.json").write_bytes(mutations.damaged(config, draw))
        shapes.at_hand(str(tmp_path), tmp_path)
        files._sums.clear()  # a later process
        (tmp_path / "sums.json").write_bytes(mutations.damaged(memory, draw))
        assert files.sums([tmp_path / "weights"], tmp_path / "sums.json") == {tmp_path / "weights": expected}
