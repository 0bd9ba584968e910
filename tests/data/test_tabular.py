"""Rows from files of each format, and from a data set of the hub: the same rows, whatever the format."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.data import tabular, userfile
from experiments.errors import ConfigError

ROWS = [
    {"prompt": "What day is it?", "completion": "2024-05-20"},
    {"prompt": "And, perhaps,\nthe hour?", "completion": "007"},
    {"prompt": "“Quoted”", "completion": "NA"},
]


def json_lines(path):
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")


def json_array(path):
    path.write_text("\ufeff" + json.dumps(ROWS, indent=1), encoding="utf-8")


def separated(path):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*ROWS[0]], delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(ROWS)


def parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path)


FILES = {
    "a.jsonl": json_lines,
    "lines.json": json_lines,
    "array.json": json_array,
    "a.csv": separated,
    "a.tsv": separated,
    "a.parquet": parquet,
}


@pytest.mark.parametrize("name", FILES)
def test_a_text_is_read_as_it_is_from_every_format(tmp_path, name):
    """A date, a number with zeros in front, and `NA` stay texts."""
    FILES[name](tmp_path / name)
    assert [row for _, row in tabular.rows(str(tmp_path / name), userfile.TRAIN)] == ROWS


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("row", "row_format"),
    [
        ({"messages": CHAT}, "chat"),
        ({"conversations": SHAREGPT}, "chat"),
        ({"prompt": "q", "completion": "a"}, "completion"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "completion"),
        ({"instruction": "q", "output": "a", "input": None}, "completion"),
        ({"query": "q", "response": "a"}, "completion"),
        ({"question": "q", "answer": "a"}, "completion"),
    ],
)
def test_the_columns_of_every_format_become_messages(tmp_path, row, row_format):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([row, row]), path)
    for wanted in ("auto", row_format):
        assert userfile.read(str(path), userfile.TRAIN, "auto", wanted) == userfile.UserData([CHAT, CHAT], False, 0)
    other = {"chat": "completion", "completion": "chat"}[row_format]
    for wanted in (other, "text"):
        with pytest.raises(ConfigError, match=r"row 1: (needs the columns|column text is missing)"):
            userfile.read(str(path), userfile.TRAIN, "auto", wanted)


def test_an_input_stands_behind_the_instruction(tmp_path):
    """Alpaca's own prompt has a place for the input; the other prompts put it into the question."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": "Add.", "input": "1, 2", "output": "3"}))
    asked = {
        form: userfile.read(str(tmp_path / "a.jsonl"), userfile.TRAIN, form, "auto").items[0]
        for form in ("alpaca", "auto")
    }
    assert [m["content"] for m in asked["alpaca"]] == ["1, 2", "Add.", "3"]
    assert [m["content"] for m in asked["auto"]] == ["Add.\n\n1, 2", "3"]


def test_texts_come_from_a_column_or_from_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.csv").write_text("text,label\none,1\n,2\ntwo,3\n")
    assert userfile.read(str(tmp_path / "a.txt"), userfile.TRAIN, "auto", "auto").items == ["one", "two"]
    assert userfile.read(str(tmp_path / "a.csv"), userfile.TRAIN, "auto", "auto") == userfile.UserData(
        ["one", "two"], True, 1, ("label",)
    )


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        ({"prompt": "q", "completion": "a", "input": "c", "id": 1}, ("id",)),
        ({"id": 1, "messages": [{"role": "assistant", "content": "a"}], "prompt": "q"}, ("id", "prompt")),
        ({"text": "t", "prompt": "q", "completion": "a"}, ("text",)),
        ({"text": "t", "input": "i"}, ("input",)),
    ],
)
def test_the_columns_that_are_not_read_are_known(tmp_path, row, unread):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert userfile.read(str(tmp_path / "a.jsonl"), userfile.TRAIN, "auto", "auto").unread == unread


@pytest.mark.parametrize("content", ["", None, " "])
def test_an_empty_system_message_is_no_message(tmp_path, content):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    shared = [{"from": "system", "value": content}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [{"messages": [{"role": "system", "content": content}, *turns]}, {"conversations": shared}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = userfile.read(str(tmp_path / "a.jsonl"), userfile.TRAIN, "auto", "auto")
    assert (data.items, data.empty) == ([turns, turns], 0)


def test_rows_with_an_empty_text_are_counted(tmp_path):
    rows = [ROWS[0], {"prompt": "q", "completion": " "}, {"prompt": None, "completion": "a"}, ROWS[1]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = userfile.read(str(tmp_path / "a.jsonl"), userfile.TRAIN, "auto", "auto")
    assert (len(data.items), data.empty) == (2, 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"text": "x"},\n{"text" "y"}]', "line 2: not a JSON array"),
        ("a.json", b'[{"text": "x"}, 3]', "row 2: must be a JSON object with named columns, got 3"),
        ("a.json", b"[" * 100_000, "not a JSON array"),
        ("a.csv", b'prompt,completion\n"open,a\n', "not a row of a table"),
        ("a.csv", b"prompt,completion\na,b,c\n", "line 2: has more fields than the first line"),
        ("a.csv", b"prompt,completion\na\n\xff,b\n", "line 3: not UTF-8 text"),
        ("a.csv", b"prompt,answer\na,b\n", "line 2: column completion is missing; found: prompt, answer"),
        ("a.csv", b"prompt,completion\n", "is empty"),
        ("a.csv", b"prompt;completion\na, b;c\n", "names are separated by ';', and a file of this name by ','"),
        ("a.csv", b'messages\n"[{""role"": ""user""}]"\n', "line 2: messages must be a list, and is a text; a table"),
        ("a.parquet", b"PAR1 no such file", "not a Parquet file that can be read"),
        ("a.jsonl", b'{"messages": [{"from": "human", "value": "q"}]}', "each message needs a role"),
        ("a.jsonl", b'{"conversations": [{"from": "tool", "value": "q"}]}', "each message needs a `from`"),
        ("a.jsonl", b'{"conversations": [{"from": "human", "value": "q"}]}', "no message comes from gpt"),
        ("a.jsonl", b'{"title": "x"}', "line 1: needs the columns instruction and output; "),
        ("a.jsonl", b'{"text": "x"}\n{"title": "x"}', "line 2: column text is missing; found: title"),
        ("a.jsonl", b'{"prompt": "", "completion": "a"}', "line 1: column prompt must be a text that is not empty"),
        (
            "a.csv",
            b"prompt,completion\n,a\nq,\n",
            "line 2: column prompt must be a text that is not empty, got ''; and ",
        ),
        ("a.csv", b"prompt,completion,completion\nq,a,b\n", "line 1: two columns have the name 'completion'"),
        ("a.jsonl", b'{"messages": [{"role": "system", "content": ""}]}', "no message has the role assistant"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        userfile.read(str(tmp_path / name), userfile.TRAIN, "auto", "auto")
    assert message in str(error.value)
    assert str(error.value).startswith(f"{userfile.TRAIN}: ")
    assert "\n" not in str(error.value)


def test_a_data_set_of_the_hub_is_told_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").write_text("a text without columns")
    assert userfile.checked("owner/name:main:test", userfile.TRAIN, None) == "owner/name:main:test"
    assert userfile.checked("data/rows", userfile.TRAIN, "plain", "auto") != "data/rows"
    with pytest.raises(ConfigError, match=r"task.train_file: cannot read data/rows.csv: No such file"):
        userfile.checked("data/rows.csv", userfile.TRAIN, "plain", "auto")
    with pytest.raises(ConfigError, match="there is no file owner/name, and the hub gives no data set of this name"):
        userfile.read("owner/name", userfile.TRAIN, "plain", "auto")


def test_the_rows_of_a_data_set_are_those_of_its_split(tmp_path, monkeypatch):
    """A folder with the name of the data set stands for the hub, as in test_hub."""
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"prompt": split, "completion": "a"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tabular, "is_hub_data", lambda source: True)
    for source, split in (("owner/name", "train"), ("owner/name::test", "test")):
        (where, row) = next(tabular.rows(source, userfile.HELD_OUT))
        assert row == {"prompt": split, "completion": "a"}
        assert where == f"task.heldout_file: {source}, row 1"
