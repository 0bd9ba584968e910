"""The training data of a user, and the errors of one line about them."""

import codecs
import json
import os
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiments.data import prompts, tabular, userfile
from experiments.errors import ConfigError
from experiments.train import base_models


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"query": "q", "response": "a"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_the_known_columns_are_read(tmp_path, row):
    (messages,) = userfile.conversations(write(tmp_path / "rows.jsonl", row, ""), "alpaca")
    assert [(m["role"], m["content"]) for m in messages] == [("user", "q"), ("assistant", "a")]


def test_a_line_separator_inside_a_text_is_no_line_end(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"query": "one\u2028two", "response": "a"}, ensure_ascii=False) + "\r\n", newline="")
    assert userfile.conversations(str(path), "alpaca")[0][0]["content"] == "one\u2028two"


GOOD = {"instruction": "q", "output": "a"}
TURNS = [{"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant")]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"instruction": "q"}, "line 2: column output is missing; found: instruction"),
        (
            {"output": "a"},
            "line 2: needs the columns instruction and output; query and response; prompt and completion",
        ),
        ({"instruction": "q", "output": ""}, "line 2: column output must be a text that is not empty"),
        ({"instruction": "q", "output": 3}, "line 2: column output must be a text"),
        ({"instruction": "q", "output": "a", "input": 3}, "line 2: column input must be a text"),
        ("{broken", "line 2: not a JSON object"),
        ("[1]", "line 2: must be a JSON object"),
        ({"messages": []}, "line 2: messages must be a list that is not empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2: each message needs a role"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2: no message has the role assistant"),
        ({"messages": [{"role": "assistant", "content": "x"}] * 2}, "line 2: task.prompt=alpaca has room for one"),
        ({"messages": [{"role": [], "content": "x"}]}, "line 2: each message needs a role"),
        ({"messages": [3]}, "line 2: each message needs a role"),
        ({"messages": [{"role": "assistant", "content": None}]}, "line 2: column content must be a text"),
        (
            {"two\nlines": 1},
            r"question and answer; conversations; or messages; found: two\n",
        ),
        ({"instruction": "q", "output": "\ud800"}, "line 2: column output has half of a surrogate pair"),
        ({"instruction": "q", "output": "a", "input": "\udfff"}, "line 2: column input has half of a surrogate pair"),
        ("[" * 100_000, "line 2: not a JSON object on one line"),
        ('{"instruction": ' + "1" * 5000 + "}", "line 2: not a JSON object on one line"),
        ('{"instruction": "q", "output": NaN}', "line 2: column output must be a text"),
        ("\0", "line 2: has a zero byte"),
        (
            {"messages": TURNS},
            "line 2: task.prompt=alpaca has room for one question and one answer only; use open-instruct",
        ),
    ],
)
def test_a_bad_row_is_one_line_with_its_number(tmp_path, bad, message):
    with pytest.raises(ConfigError) as error:
        userfile.conversations(write(tmp_path / "rows.jsonl", GOOD, bad), "alpaca")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_file_is_an_error(tmp_path):
    for read in (userfile.documents, lambda path: userfile.conversations(path, "alpaca")):
        with pytest.raises(ConfigError, match="is empty"):
            read(write(tmp_path / "rows.jsonl", ""))


def test_blank_lines_stand_between_documents(tmp_path):
    path = write(tmp_path / "a.txt", "one", "still one", "  ", "", "two")
    assert userfile.documents(path) == ["one\nstill one", "two"]


def test_documents_of_json_lines_have_a_text(tmp_path):
    assert userfile.documents(write(tmp_path / "a.jsonl", {"text": "x"})) == ["x"]
    with pytest.raises(ConfigError, match="line 1: column text is missing; found: body"):
        userfile.documents(write(tmp_path / "a.jsonl", {"body": "x"}))


ROWS_OF_JSON = "A file of rows in JSON is read as rows or refused, whatever its name; no row is trained on as raw text."


@pytest.mark.promise(ROWS_OF_JSON)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson", ".jsonlines", ".jl", ".JSONL", ".NdJson"])
def test_every_name_of_json_lines_is_known(tmp_path, suffix):
    assert userfile.documents(write(tmp_path / f"a{suffix}", {"text": "x"})) == ["x"]


@pytest.mark.promise(ROWS_OF_JSON)
@pytest.mark.parametrize("name", ["a.txt", "a", "a.jsonlx"])
def test_rows_of_json_under_the_name_of_a_text_are_refused(tmp_path, name):
    for lines in ([{"text": "x"}], ['[{"text": "x"}]'], json.dumps([{"text": "x"}] * 2, indent=1).split("\n")):
        path = write(tmp_path / name, "", *lines)
        for read in (userfile.documents, lambda path: userfile.read(path, userfile.TRAIN, None, "auto")):
            with pytest.raises(ConfigError, match="line 2: holds JSON, and the name of the file is"):
                read(path)
    for text in ("{x} and y", "[1] A first note.", "[1]", "[]", "[" * 100_000, '[{"text": "x"}, 3]'):
        assert userfile.documents(write(tmp_path / name, text)) == [text]


TOO_LONG = "Rows that are too long are counted on the screen and in the record; a run that loses most rows is refused."


@pytest.mark.promise(TOO_LONG)
def test_held_out_rows_that_are_too_long_are_counted(smoke, tmp_path, capsys):
    from experiments import tasks

    from .tokenizers_of import byte_level

    train = write(tmp_path / "rows.jsonl", *({"query": f"q{i}", "response": f"answer {i}"} for i in range(8)))

    def prepared(long):
        rows = [{"query": f"other {i}", "response": "x" * (2000 if i < long else 20)} for i in range(10)]
        held_out = write(tmp_path / "held-out.jsonl", *rows)
        own = ("task=math", "task.heldout_rows=10", f"task.train_file={train}", f"task.heldout_file={held_out}")
        return tasks.get("math").prepare(smoke(*own), byte_level())

    some = prepared(3)
    assert some.notes["rows"] == {"train": {"used": 8, "too_long": 0}, "heldout": {"used": 7, "too_long": 3}}
    assert len(some.evaluation.rows) == 7
    longest = smoke("task=math").task.max_length
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"math: 7 of 10 held-out rows are measured; the others are longer than {longest} tokens (task.max_length)"
    )
    prepared(0)
    assert "held-out rows are measured" not in capsys.readouterr().err
    with pytest.raises(ConfigError, match=rf"task\.max_length: no held-out row has at most {longest} tokens"):
        prepared(10)


@pytest.mark.promise(TOO_LONG)
def test_rows_that_are_too_long_are_counted_and_most_of_them_are_refused(smoke, tmp_path, capsys):
    from experiments import tasks

    from .tokenizers_of import byte_level

    def prepared(long):
        rows = [{"query": "q" * (2000 if i < long else 1), "response": f"answer {i}"} for i in range(20)]
        path = write(tmp_path / "rows.jsonl", *rows)
        arguments = ("task=math", "task.train_rows=20", f"task.train_file={path}")
        return tasks.get("math").prepare(smoke(*arguments), byte_level())

    assert prepared(3).notes["rows"]["train"] == {"used": 17, "too_long": 3}
    assert "math: 17 of 20 rows train" in capsys.readouterr().err
    assert prepared(0).notes["rows"]["train"] == {"used": 20, "too_long": 0}
    assert "rows train" not in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"only 1 of 20 rows have an answer .*; at least 50% must"):
        prepared(19)


def test_the_line_of_bytes_that_are_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8 text"):
        userfile.documents(str(tmp_path / "a.txt"))


def test_the_key_depends_on_the_content_of_the_file_and_not_on_its_place(tmp_path):
    def checked(name, *rows):
        return userfile.checked(write(tmp_path / name, *rows), userfile.TRAIN, "alpaca")

    first = checked("a.jsonl", GOOD)
    assert checked("b.jsonl", GOOD) == first
    assert checked("a.jsonl", GOOD, GOOD) != first


SWAPPED = "A file or a folder of a user that changes between the hash in the key and the training is refused."


def swap(monkeypatch, path, content):
    """Replace a file when the run loads its tokenizer: after the key was computed, and before the data are read."""
    load = base_models.tokenizer_of_run

    def loading(*arguments):
        path.write_bytes(content)
        return load(*arguments)

    monkeypatch.setattr(base_models, "tokenizer_of_run", loading)


@pytest.mark.promise(SWAPPED)
def test_a_file_that_is_swapped_before_the_training_is_refused(smoke, tmp_path, monkeypatch, counted):
    from experiments import runner

    path = tmp_path / "rows.txt"
    path.write_bytes(b"word " * 3000)
    swap(monkeypatch, path, b"other words " * 3000)
    with pytest.raises(ConfigError, match=r"rows\.txt has changed since this run began"):
        runner.run(smoke("task=pretrain", "method=fft", "model=tiny", f"task.train_file={path}"))
    assert not list((tmp_path / "results" / "runs").glob("*.json"))
    counted(1, "swapped files")


def test_only_the_bytes_of_the_hash_are_read(tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD)
    digest = userfile.checked(path, userfile.TRAIN, "alpaca")
    with tabular.unchanged({path: digest}):
        assert len(userfile.conversations(path, "alpaca")) == 1
        write(tmp_path / "rows.jsonl", GOOD, GOOD)
        with pytest.raises(ConfigError, match="give the command again"):
            userfile.conversations(path, "alpaca")
    assert len(userfile.conversations(path, "alpaca")) == 2


def test_a_bad_file_is_refused_before_anything_is_loaded(smoke, tmp_path, monkeypatch):
    from experiments import runner

    monkeypatch.setattr(base_models, "load", lambda *_: pytest.fail("the model was loaded"))
    path = write(tmp_path / "rows.jsonl", GOOD, {"instruction": "q"})
    with pytest.raises(ConfigError, match="line 2: column output is missing"):
        runner.run(smoke("task=instruct", f"task.train_file={path}"))
    with pytest.raises(ConfigError, match=r"task\.train_file must be a file"):
        smoke("task=instruct", f"task.train_file={tmp_path / 'nowhere.jsonl'}")


def test_a_text_that_fills_no_window_is_an_error(smoke, tmp_path):
    from experiments import tasks

    from .tokenizers_of import byte_level

    path = write(tmp_path / "a.txt", "A few words.")
    with pytest.raises(ConfigError, match="1 documents do not fill one window of 256 tokens"):
        tasks.get("pretrain").prepare(smoke("task=pretrain", f"task.train_file={path}"), byte_level())


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, end):
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + json.dumps(GOOD).encode() + end.encode())
    assert len(userfile.conversations(str(tmp_path / "a.jsonl"), "alpaca")) == 1
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + f"one{end}two".encode())
    assert userfile.documents(str(tmp_path / "a.txt")) == [f"one{end}two".replace("\r", "")]


@pytest.mark.promise("A huge data file of another format is refused by its beginning, before the file is read.")
@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("weights.jsonl", b"{", "line 1: has a zero byte"),
        ("weights.txt", b"\xff", "line 1: not UTF-8 text"),
        ("weights.parquet", b"PK", "not a Parquet file"),
    ],
)
def test_a_huge_file_of_another_format_is_refused_by_its_head(tmp_path, name, head, message):
    path = tmp_path / name
    path.write_bytes(head)
    os.truncate(path, 1 << 40)  # no memory could hold it
    with pytest.raises(ConfigError, match=f"^task.train_file: {re.escape(str(path))}.*{message}"):
        userfile.checked(str(path), userfile.TRAIN, None)


@pytest.mark.promise("A huge data file of another format is refused by its beginning, before the file is read.")
def test_a_line_that_is_too_long_is_refused_before_the_file_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a" * tabular.HEAD)
    os.truncate(tmp_path / "a.txt", 1 << 40)
    with pytest.raises(ConfigError, match="line 1: longer than 16,777,216 characters"):
        userfile.checked(str(tmp_path / "a.txt"), userfile.TRAIN, None)


def test_a_large_file_of_texts_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular, "HEAD", 6)  # cuts the letter in two
    (tmp_path / "a.txt").write_text("abcd \u03b1\n\nb")
    assert userfile.documents(str(tmp_path / "a.txt")) == ["abcd \u03b1", "b"]


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular, "LONGEST", 100)
    (tmp_path / "wide.txt").write_text("fine\n" + "x" * 101)
    (tmp_path / "utf16.txt").write_text("fine\n", encoding="utf-16")
    for name, message in (
        (".", "cannot read .*Is a directory"),
        ("nowhere", "cannot read .*No such file"),
        ("wide.txt", "line 2: longer than 100 characters"),
        ("utf16.txt", "line 1: not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=message):
            userfile.documents(str(tmp_path / name))


def test_a_json_array_is_read_too(tmp_path):
    path = write(tmp_path / "rows.json", *json.dumps([GOOD, GOOD], indent=1).split("\n"))
    assert len(userfile.conversations(path, "alpaca")) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
columns = st.sampled_from(
    ["instruction", "output", "input", "query", "response", "messages", "text", "role", "content"]
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": json_values}
)
rows = st.dictionaries(columns, st.text(max_size=4) | json_values | st.lists(messages, max_size=3), max_size=4)
lines = st.binary(max_size=40) | rows.map(lambda row: json.dumps(row).encode())
contents = st.lists(lines, max_size=3).flatmap(
    lambda parts: st.sampled_from([b"\n", b"\r\n", b"\n\n"]).map(lambda e: e.join(parts))
)


@pytest.mark.promise(
    "A data file of any bytes is read, or refused in a message that names the file and the line, never in a traceback."
)
def test_any_bytes_are_read_or_refused(tmp_path, counted):
    contents_read, refusals = [], []

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @example(b'{"instruction": "Say a.", "output": "a"}', "alpaca", ".jsonl", None)
    @example(b"", "alpaca", ".csv", None)
    @given(
        contents,
        st.sampled_from(["alpaca", "open-instruct", "raw", None]),
        st.sampled_from([".jsonl", ".csv", ".txt"]),
        st.sampled_from([None, "auto", "chat", "completion", "text"]),
    )
    def check(content, form, suffix, row_format):
        path = tmp_path / f"data{suffix}"
        path.write_bytes(content)
        try:
            userfile.checked(str(path), userfile.TRAIN, form, row_format)
        except ConfigError as error:
            refusals.append(str(error))
            return
        if form and not row_format:
            for conversation in userfile.conversations(str(path), form):
                transcript = prompts.FORMS[form](conversation, "</s>")
                transcript.text.encode()
                assert any(last > first for first, last in transcript.spans)
        contents_read.append(content)

    check()
    assert contents_read
    assert refusals
    for message in refusals:
        assert message.startswith("task.train_file: ")
        assert "\n" not in message
        assert len(message) < 500
        assert ", line " in message or ", row " in message or message.endswith("is empty")
    counted(len(contents_read) + len(refusals), "data files")
