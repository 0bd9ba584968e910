"""Windows of plain text."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data.windows import packed, windows

from .tokenizers_of import byte_level

TOKENIZER = byte_level()
documents_of = st.lists(st.text(alphabet="abc \n", max_size=30), max_size=8)


@settings(deadline=None, max_examples=60)
@given(documents_of, st.integers(2, 40))
def test_windows_hold_every_token_once_and_in_order(documents, length):
    cut = list(windows(documents, TOKENIZER, length, keep_rest=True))
    expected = []
    for text in documents:
        expected += [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]
    flat = [token for window in cut for token in window]
    assert flat == expected[: len(flat)]
    assert len(expected) - len(flat) <= 1  # a window of one token has no token to predict
    assert all(len(window) == length for window in cut[:-1])


def test_without_the_rest_every_window_is_full_and_the_loss_counts_everywhere(tmp_path):
    rows = packed(["one two three"] * 20, TOKENIZER, 16, tmp_path)
    assert set(rows.lengths.tolist()) == {16}
    assert all((row["labels"] == row["input_ids"]).all() for row in rows)


def test_windows_come_from_the_cache_the_second_time(tmp_path):
    class WithoutEncode:
        """The same tokenizer without the ability to tokenise."""

        backend_tokenizer = TOKENIZER.backend_tokenizer
        bos_token_id, eos_token_id = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id
        eos_token = TOKENIZER.eos_token

    first = packed(["some text"] * 9, TOKENIZER, 8, tmp_path)
    again = packed(["some text"] * 9, WithoutEncode(), 8, tmp_path)
    assert (again.ids == first.ids).all()


@pytest.mark.promise("Long documents are packed in linear time.")
def test_a_long_document_is_packed_in_linear_time():
    """8 MB took 225 s. A tokenizer that does nothing leaves the time of packing alone."""

    class Ids:
        eos_token, eos_token_id = "</s>", 1

        def encode(self, text, add_special_tokens):
            return list(range(len(text)))

    start = time.process_time()
    cut = list(windows(["x" * 8_000_000], Ids(), 256, keep_rest=True))
    assert time.process_time() - start < 20
    assert sum(map(len, cut)) == 8_000_000  # the end token alone fills no window
