"""A user's own training data, and one clear line for what is wrong with it."""

import json

import pytest

from experiments.errors import ConfigError
from experiments.tasks import userfile


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
        ({"output": "a"}, "line 2: needs the columns instruction and output; query and response; or messages"),
        ({"instruction": "q", "output": ""}, "line 2: column output must be a text that is not empty"),
        ({"instruction": "q", "output": 3}, "line 2: column output must be a text"),
        ({"instruction": "q", "output": "a", "input": 3}, "line 2: column input must be a text"),
        ("{broken", "line 2: not JSON"),
        ("[1]", "line 2: must be an object"),
        ({"messages": []}, "line 2: messages must be a list that is not empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2: each message needs a role"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2: no message is the assistant's"),
        ({"messages": TURNS}, "line 2: task.prompt=alpaca holds one question and one answer; use open-instruct"),
    ],
)
def test_a_bad_row_is_one_line_with_its_number(tmp_path, bad, message):
    with pytest.raises(ConfigError) as caught:
        userfile.conversations(write(tmp_path / "rows.jsonl", GOOD, bad), "alpaca")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_an_error(tmp_path):
    for read in (userfile.documents, lambda path: userfile.conversations(path, "alpaca")):
        with pytest.raises(ConfigError, match="is empty"):
            read(write(tmp_path / "rows.jsonl", ""))


def test_documents_are_parted_by_blank_lines(tmp_path):
    path = write(tmp_path / "a.txt", "one", "still one", "  ", "", "two")
    assert userfile.documents(path) == ["one\nstill one", "two"]


def test_documents_of_json_lines_have_a_text(tmp_path):
    assert userfile.documents(write(tmp_path / "a.jsonl", {"text": "x"})) == ["x"]
    with pytest.raises(ConfigError, match="line 1: column text is missing; found: body"):
        userfile.documents(write(tmp_path / "a.jsonl", {"body": "x"}))


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8 text"):
        userfile.documents(str(tmp_path / "a.txt"))


def test_the_key_follows_what_is_in_the_file_and_not_where_it_lies(tmp_path):
    first = userfile.checked(write(tmp_path / "a.jsonl", GOOD), "alpaca")
    assert userfile.checked(write(tmp_path / "b.jsonl", GOOD), "alpaca") == first
    assert userfile.checked(write(tmp_path / "a.jsonl", GOOD, GOOD), "alpaca") != first


def test_a_bad_file_is_found_before_anything_is_loaded(smoke, tmp_path, monkeypatch):
    from experiments import models, runner

    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the model was loaded"))
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
