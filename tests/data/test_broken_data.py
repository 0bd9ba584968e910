"""Thousands of broken data files: each loader gives a result or one line, never a traceback."""

import json
import random

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


def broken(draw):
    """A file of rows or of documents that was changed, as its bytes or as its values."""
    table = [draw.choice(ROWS) for _ in range(draw.randrange(1, 5))]
    if draw.random() < 0.6:
        table = [mutations.changed(row, draw, draw.choice((0, 1, 2))) for row in table]
    content = draw.choice((b"\n", b"\r\n", b"\n\n")).join(json.dumps(row).encode() for row in table)
    return mutations.damaged(content, draw) if draw.random() < 0.6 else content


def loaded(path, form, tokenizer, cache):
    """Load a file as a run does: the check for the key, the rows, their tokens."""
    source, setting = str(path), userfile.TRAIN
    with tabular.unchanged({source: userfile.checked(source, setting, form)}):
        if form:
            return prompts.supervised(userfile.conversations(source, form), form, tokenizer, 400, cache)
        return windows.packed(userfile.documents(source), tokenizer, 16, cache, keep_rest=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise(
    "A data file of any bytes is read, or refused in a message that names the file and the line, never in a traceback."
)
def test_thousands_of_broken_data_files(tmp_path, monkeypatch, counted):
    monkeypatch.setattr(files, "flush", lambda path: None)  # thousands of files of the cache
    draw, tokenizer, read = random.Random(0), byte_level(), 0
    refusals: list[str] = []
    for _ in range(MUTATIONS):
        path = tmp_path / f"data{draw.choice(SUFFIXES)}"
        path.write_bytes(broken(draw))
        try:
            assert len(loaded(path, draw.choice(["alpaca", "open-instruct", None]), tokenizer, tmp_path))
            read += 1
        except ConfigError as error:
            refusals.append(str(error))
    odd = [m for m in refusals if not m.startswith("task.") or len(m.splitlines()) > 1 or len(m) > 1000]
    assert odd == []
    assert min(read, len(refusals)) > MUTATIONS / 20
    counted(read + len(refusals), "data files")


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
def test_thousands_of_broken_configurations_and_memories_of_sums(tmp_path):
    """Neither the shape of a model folder nor the sums of its files end in a traceback."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config, draw = json.dumps(dict.fromkeys(sizes, 8)).encode(), random.Random(0)
    (tmp_path / "weights").write_bytes(b"weights")
    expected = files.sha256(tmp_path / "weights")
    memory = json.dumps({str(tmp_path / "weights"): [7, 1, 1, 1, "0" * 64]}).encode()
    for _ in range(MUTATIONS):
        (tmp_path / "config.json").write_bytes(mutations.damaged(config, draw))
        shapes.at_hand(str(tmp_path), tmp_path)
        (tmp_path / "sums.json").write_bytes(mutations.damaged(memory, draw))
        assert files.sums([tmp_path / "weights"], tmp_path / "sums.json") == {tmp_path / "weights": expected}
