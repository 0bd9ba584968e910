"""The prompts, and the tokens on which the loss counts, on real rows and with tokenizers of three kinds."""

import pytest
import torch

from experiments.data import corpora, prompts
from experiments.data.prompts import pair
from experiments.data.rows import IGNORED
from experiments.errors import ConfigError

from .tokenizers_of import CACHE, KINDS

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three?"},
    {"role": "assistant", "content": "Seven."},
]


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


def counted_text(row, tokenizer):
    return tokenizer.decode(row["labels"][row["labels"] != IGNORED])


def test_alpaca_is_the_published_form():
    text = prompts.alpaca(pair("Add.", "3", "1, 2"), "</s>").text
    assert text == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:3</s>"
    )
    assert "### Input" not in prompts.alpaca(pair("Add.", "3"), "</s>").text


def test_open_instruct_is_the_published_form():
    transcript = prompts.open_instruct(CHAT, "</s>")
    assert transcript.text == (
        "<|system|>\nBe brief.\n<|user|>\nTwo and two?\n<|assistant|>\nFour.</s>\n"
        "<|user|>\nAnd three?\n<|assistant|>\nSeven.</s>"
    )
    assert [transcript.text[a:b] for a, b in transcript.spans] == ["Four.</s>", "Seven.</s>"]
    assert transcript.question.endswith("<|user|>\nAnd three?\n<|assistant|>\n")


def test_the_loss_counts_on_the_response_and_the_end_token_only(tokenizer, tmp_path):
    rows = corpora.alpaca(CACHE)[:60]
    conversations = [pair(r["instruction"], r["output"], r["input"]) for r in rows]
    encoded = prompts.supervised(conversations, "alpaca", tokenizer, 10_000, tmp_path)
    assert len(encoded) == len(rows)
    for row, source in zip(encoded, rows, strict=True):
        assert row["labels"][-1] == row["input_ids"][-1] == tokenizer.eos_token_id
        answer = source["output"] + tokenizer.eos_token
        text, ignored = counted_text(row, tokenizer), tokenizer.decode(row["input_ids"][row["labels"] == IGNORED])
        if ignored.endswith("### Response:"):
            assert text == answer
        else:  # a token covers the colon and the first characters of the answer, such as a quote
            start = ignored.rpartition("### Response:")[2]
            assert 0 < len(start) < 3
            assert start + text == answer
        assert (row["labels"][row["labels"] != IGNORED] == row["input_ids"][row["labels"] != IGNORED]).all()


def test_every_answer_of_a_conversation_counts_with_its_end_token(tokenizer, tmp_path):
    (row,) = prompts.supervised([CHAT], "open-instruct", tokenizer, 512, tmp_path)
    eos = tokenizer.eos_token_id
    assert (row["input_ids"] == eos).sum() == 2
    assert (row["labels"] == eos).sum() == 2
    assert counted_text(row, tokenizer).replace(tokenizer.eos_token, "|").replace(" ", "") == "Four.|Seven.|"


def test_the_loss_counts_on_the_end_token_where_the_end_token_pads():
    from experiments.data.rows import collate

    tokenizer = KINDS["gpt_style"]()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [
        dict(zip(("input_ids", "labels"), map(torch.tensor, ids), strict=True))
        for ids in ([[5, 6, tokenizer.eos_token_id], [IGNORED, 6, tokenizer.eos_token_id]], [[7], [7]])
    ]
    batch = collate(rows)
    assert batch["labels"][0].tolist() == [IGNORED, 6, tokenizer.eos_token_id]
    assert batch["labels"][1].tolist() == [7, IGNORED, IGNORED]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_tokens_are_those_of_the_whole_text(tokenizer):
    """Prompt and answer are tokenised at once, as in the published code."""
    transcript = prompts.alpaca(pair("Say hi.", "Hi there"), tokenizer.eos_token)
    ids, counted = prompts.encode(transcript, tokenizer, 512)
    assert ids == tokenizer(transcript.text)["input_ids"]
    assert len(ids) == len(counted)


def test_a_long_row_is_cut_and_a_row_without_an_answer_left_out(tmp_path):
    tokenizer = KINDS["byte_level"]()
    conversations = [pair("x", "y" * 500), pair("x" * 500, "y")]
    rows = prompts.supervised(conversations, "alpaca", tokenizer, 300, tmp_path)
    assert len(rows) == 1
    assert rows.lengths.tolist() == [300]
    assert tokenizer.eos_token_id not in rows[0]["input_ids"]
    with pytest.raises(ConfigError, match="no row has an answer within 10 tokens"):
        prompts.supervised(conversations, "alpaca", tokenizer, 10, tmp_path)


def test_rows_come_from_the_cache_the_second_time(tmp_path, monkeypatch):
    tokenizer = KINDS["byte_level"]()
    first = prompts.supervised([pair("a", "b")], "alpaca", tokenizer, 512, tmp_path)
    monkeypatch.setattr(prompts, "encode", lambda *_: pytest.fail("tokenised again"))
    again = prompts.supervised([pair("a", "b")], "alpaca", tokenizer, 512, tmp_path)
    assert again[0]["labels"].tolist() == first[0]["labels"].tolist()
    with pytest.raises(pytest.fail.Exception, match="tokenised again"):
        # Rows of another length are not in the cache.
        prompts.supervised([pair("a", "b")], "alpaca", tokenizer, 511, tmp_path)


def cut(content):
    return content[:40]


def flip_the_last_token(content):
    """The arrays lie behind the header, which says nothing of their values."""
    return content[:-1] + bytes([content[-1] ^ 1])


def without_its_sum(content):
    return content.replace(b"sha256", b"sha255")


@pytest.mark.promise("Cached rows whose file was damaged are built again, and a warning names the file.")
@pytest.mark.parametrize("damage", [cut, flip_the_last_token, without_its_sum, lambda content: b""])
def test_a_damaged_cache_file_is_built_again(damage, tmp_path, capsys, counted):
    tokenizer = KINDS["byte_level"]()
    first = prompts.supervised([pair("a", "b")], "alpaca", tokenizer, 512, tmp_path)
    (path,) = (tmp_path / "rows").glob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    again = prompts.supervised([pair("a", "b")], "alpaca", tokenizer, 512, tmp_path)
    assert again[0]["input_ids"].tolist() == first[0]["input_ids"].tolist()
    assert again[0]["labels"].tolist() == first[0]["labels"].tolist()
    assert f"warning: {path} is damaged" in capsys.readouterr().err
    counted(1, "damaged cache files")


@pytest.mark.promise("The loss counts on every token of an answer, also on tokens of spaces alone.")
@pytest.mark.parametrize("answer", ["  deep", "a  b", "a   ", "    if x:\n        y"])
def test_the_loss_counts_on_tokens_of_spaces_alone(answer, tokenizer):
    """SmolLM2's tokenizer trims spaces off the ranges of tokens, so a token of spaces alone has an empty range."""
    transcript = prompts.alpaca(pair("Say hi.", answer), tokenizer.eos_token)
    ids, counted = prompts.encode(transcript, tokenizer, 512)
    without = len(tokenizer(transcript.text[: transcript.spans[0][0]])["input_ids"])
    assert counted[without:] == [True] * (len(ids) - without)
    assert not any(counted[: without - 1])


def with_template(template, tokenizer=None):
    tokenizer = tokenizer or KINDS["byte_level"]()
    tokenizer.chat_template = template
    return tokenizer


def spans(transcript):
    return [transcript.text[first:last] for first, last in transcript.spans]


EACH = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}END\n{% endfor %}"
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }} </s>"
    "{% else %}<s>[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
# As Qwen3: a block for thoughts stands only in front of the last answer.
THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "answers", "end"),
    [
        (EACH, ["Four.END", "Seven.END"], "END"),
        (LLAMA2, ["Four. </s>", "Seven. </s>"], "</s>"),
        (THINKING, ["Four.<|end|>", "Seven.<|end|>"], "<|end|>"),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", ["Four.", "Seven."], ""),
    ],
)
def test_a_template_tells_its_answers(template, answers, end):
    """The loss counts on the answers and on what stands at their end; a measured loss counts on their texts alone."""
    tokenizer = with_template(template)
    prompt = prompts.prompt_of("auto", tokenizer)
    assert (prompt.name, prompt.end) == ("template", end)
    transcript = prompt.transcribe(CHAT, tokenizer.eos_token)
    assert spans(transcript) == answers
    assert spans(prompt.transcribe(CHAT, "")) == ["Four.", "Seven."]
    assert transcript.text == tokenizer.apply_chat_template(CHAT, tokenize=False)
    ids, counted = prompts.encode(transcript, tokenizer, 512)
    assert ids == tokenizer.apply_chat_template(CHAT)["input_ids"]  # no second first token
    assert tokenizer.decode([i for i, c in zip(ids, counted, strict=True) if c]) == "".join(answers)


def test_an_answer_that_repeats_the_question_is_told_by_its_place():
    tokenizer = with_template(EACH)
    transcript = prompts.prompt_of("template", tokenizer).transcribe(pair("same", "same"), tokenizer.eos_token)
    assert spans(transcript) == ["sameEND"]
    assert transcript.spans[0][0] == len("<|user|>sameEND\n<|assistant|>")


def test_a_real_template_has_its_end_token(tmp_path):
    tokenizer = KINDS["gpt_style"]()
    (row,) = prompts.supervised([CHAT], "template", tokenizer, 512, tmp_path)
    assert counted_text(row, tokenizer) == "Four.<|im_end|>Seven.<|im_end|>"
    assert tokenizer.decode(row["input_ids"]) == tokenizer.apply_chat_template(CHAT, tokenize=False)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "does not print an answer once and as it is"),
        ("{{ messages[-1].content }}{{ messages[-1].content }}", "does not print an answer once and as it is"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + EACH, "no system"),
        ("{{ messages[1].content if messages | length == 2 else messages | length }}", "cannot be told from the rest"),
        (None, "the model has no chat template"),
    ],
)
def test_a_template_that_does_not_tell_answers_is_refused_in_one_line(template, message):
    tokenizer = with_template(template)
    with pytest.raises(ConfigError, match=message) as error:
        prompts.prompt_of("template", tokenizer).transcribe(CHAT, tokenizer.eos_token)
    assert str(error.value).startswith("task.prompt=template: the model")
    assert "\n" not in str(error.value)


def test_the_date_of_a_template_is_the_same_every_day():
    tokenizer = with_template("{{ strftime_now('%d %b %Y') }} {{ date_string }}" + EACH)
    prompt = prompts.prompt_of("template", tokenizer)
    assert prompt.transcribe(CHAT, "").text.startswith("26 Jul 2024 26 Jul 2024<|system|>")


def test_the_plain_prompts():
    tokenizer = KINDS["byte_level"]()
    plain = prompts.prompt_of("auto", tokenizer)
    assert plain.name == "plain"
    assert plain.transcribe(CHAT[1:3], "</s>").text == "User:\nTwo and two?\n\nAssistant:\nFour.</s>"
    assert spans(plain.transcribe(CHAT, "</s>")) == ["Four.</s>", "Seven.</s>"]
    raw = prompts.prompt_of("raw", tokenizer).transcribe(pair("2 + 2 =", " 4"), "</s>")
    assert (raw.text, spans(raw)) == ("2 + 2 = 4</s>", [" 4</s>"])


def test_the_version_of_a_template_says_which_template():
    first, second = (prompts.prompt_of("auto", with_template(t)).version for t in (EACH, LLAMA2))
    assert first.startswith("template-1-")
    assert first != second
