"""Prompts as published, and the tokens on which the loss counts.

A conversation becomes a transcript: a text with spans, each of which covers an answer and its end token. The loss
counts on the tokens in a span. The whole text is tokenised at once, as in the published code, so that all tokens are
the same as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .rows import Rows, cached, fingerprint, tokenizer_fingerprint

# Records hold the version of the prompt. Raise a version when the text of the prompt changes.
VERSIONS = {"alpaca": "alpaca-1", "open-instruct": "open-instruct-1"}

ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)

Message = dict[str, str]  # `role` (system, user or assistant) and `content`


@dataclass(frozen=True)
class Transcript:
    """A conversation as one text, and the ranges of its characters on which the loss counts."""

    text: str
    spans: tuple[tuple[int, int], ...]

    @property
    def question(self) -> str:
        """The text before the last answer."""
        return self.text[: self.spans[-1][0]]


def alpaca(messages: Sequence[Message], eos: str) -> Transcript:
    """The prompt of Stanford Alpaca, which MetaMath uses too: an instruction, perhaps an input, and an answer.

    A system message becomes Alpaca's input.
    """
    by_role = {message["role"]: message["content"] for message in messages}
    form = ALPACA_INPUT if by_role.get("system") else ALPACA
    prompt = form.format(instruction=by_role["user"], input=by_role.get("system", ""))
    text = prompt + by_role["assistant"] + eos
    return Transcript(text, ((len(prompt), len(text)),))


def open_instruct(messages: Sequence[Message], eos: str) -> Transcript:
    """The role headers of open-instruct, with which Tulu v2 was trained. The end token closes each answer."""
    text, spans = "", []
    for message in messages:
        text += f"<|{message['role']}|>\n"
        start = len(text)
        text += message["content"].strip()
        if message["role"] == "assistant":
            text += eos
            spans.append((start, len(text)))
        text += "\n"
    return Transcript(text.removesuffix("\n"), tuple(spans))


FORMS = {"alpaca": alpaca, "open-instruct": open_instruct}


def pair(instruction: str, response: str, context: str = "") -> list[Message]:
    """A question and its answer as messages; `context` is Alpaca's input."""
    system = [{"role": "system", "content": context}] if context else []
    return [*system, {"role": "user", "content": instruction}, {"role": "assistant", "content": response}]


def plain(messages: Sequence[Message]) -> str:
    """The contents of all messages, for the comparison of texts."""
    return "\n".join(message["content"] for message in messages)


def encode(transcript: Transcript, tokenizer: Any, max_length: int) -> tuple[list[int], list[bool]]:
    """The first `max_length` token ids, and whether the loss counts on each of them.

    The place of a token decides whether the loss counts on it, never its id: so the loss counts on the end token of an
    answer also where the tokenizer pads with the end token. A token that joins the end of the prompt and the start of
    the answer does not count, as in the published code, which masks as many tokens as the prompt alone has.
    """
    encoded = tokenizer(transcript.text, return_offsets_mapping=True, return_special_tokens_mask=True)
    places = _places(encoded["offset_mapping"], encoded["special_tokens_mask"])
    counted = [place is not None and any(first <= place < last for first, last in transcript.spans) for place in places]
    return encoded["input_ids"][:max_length], counted[:max_length]


def _places(offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> list[int | None]:
    """The first character of each token; None for the special tokens that the tokenizer adds.

    Some tokenizers trim spaces off the range of a token. The range of a token of spaces alone is then empty, and the
    token begins where the token before it ends.
    """
    places: list[int | None] = []
    behind = 0
    for (start, end), added in zip(offsets, special, strict=True):
        places.append(start if end > start else None if added else behind)
        behind = max(behind, end)
    return places


def supervised(
    conversations: Sequence[Sequence[Message]], form: str, tokenizer: Any, max_length: int, cache: Path
) -> Rows:
    """The rows that train on the answers of conversations, cached.

    A conversation whose first `max_length` tokens reach no answer is left out.

    Raises:
        ConfigError: Every conversation is left out, or the tokenizer does not say which characters a token covers.
    """
    if not tokenizer.is_fast:
        raise ConfigError(f"task.prompt: {form} needs a fast tokenizer, which gives offsets; this model has a slow one")
    transcribe, eos = FORMS[form], tokenizer.eos_token

    def build() -> Rows:
        encoded = (encode(transcribe(messages, eos), tokenizer, max_length) for messages in conversations)
        return Rows.of((ids, counted) for ids, counted in encoded if any(counted))

    settings = [VERSIONS[form], max_length, tokenizer_fingerprint(tokenizer)]
    rows = cached(cache, fingerprint("supervised", list(map(list, conversations)), *settings), build)
    if not len(rows):
        raise ConfigError(f"task.max_length: no row has an answer within {max_length} tokens")
    return rows
