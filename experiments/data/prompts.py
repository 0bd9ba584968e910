"""Prompts as published, and where the loss counts.

A prompt is a text with spans: the loss counts on tokens that lie in a span, which is the response and the end token.
Text and spans are tokenised together, as the published code does, so that no token differs from theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .rows import Rows, cached, fingerprint, tokenizer_fingerprint

VERSIONS = {"alpaca": "alpaca-1", "open-instruct": "open-instruct-1"}  # recorded; raised when a text below changes

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

Message = dict[str, str]  # role: system, user, assistant; content


@dataclass(frozen=True)
class Prompted:
    """A text and the character ranges on which the loss counts."""

    text: str
    spans: tuple[tuple[int, int], ...]

    @property
    def question(self) -> str:
        """All that stands before the last response."""
        return self.text[: self.spans[-1][0]]


def alpaca(messages: Sequence[Message], eos: str) -> Prompted:
    """Stanford Alpaca's form, as MetaMath trains on it: one instruction, perhaps an input, one response.

    A system message, if there is one, is taken for Alpaca's input.
    """
    by_role = {message["role"]: message["content"] for message in messages}
    form = ALPACA_INPUT if by_role.get("system") else ALPACA
    prompt = form.format(instruction=by_role["user"], input=by_role.get("system", ""))
    text = prompt + by_role["assistant"] + eos
    return Prompted(text, ((len(prompt), len(text)),))


def open_instruct(messages: Sequence[Message], eos: str) -> Prompted:
    """The role headers of open-instruct, which Tulu v2 was trained with; the end token closes each answer."""
    text, spans = "", []
    for message in messages:
        text += f"<|{message['role']}|>\n"
        start = len(text)
        text += message["content"].strip()
        if message["role"] == "assistant":
            text += eos
            spans.append((start, len(text)))
        text += "\n"
    return Prompted(text.rstrip("\n"), tuple(spans))


FORMS = {"alpaca": alpaca, "open-instruct": open_instruct}


def pair(instruction: str, response: str, context: str = "") -> list[Message]:
    """One question and its answer as messages; `context` is Alpaca's input."""
    system = [{"role": "system", "content": context}] if context else []
    return [*system, {"role": "user", "content": instruction}, {"role": "assistant", "content": response}]


def plain(messages: Sequence[Message]) -> str:
    """All that is said in a conversation, for comparing texts."""
    return "\n".join(message["content"] for message in messages)


def question(messages: Sequence[Message]) -> str:
    """What the user says first."""
    return next(message["content"] for message in messages if message["role"] == "user")


def encode(prompted: Prompted, tokenizer: Any, max_length: int) -> tuple[list[int], list[bool]]:
    """Token ids, and whether the loss counts on each, cut to `max_length` from the right as published.

    The end token counts wherever it closes an answer, also where the tokenizer pads with the same token: what
    counts is told by place, never by id. A token that joins the end of the prompt with the start of the answer does
    not count, as in the published code, which masks as many tokens as the prompt alone has.
    """
    encoded = tokenizer(prompted.text, return_offsets_mapping=True)
    counted = [
        end > start and any(first <= start < last for first, last in prompted.spans)
        for start, end in encoded["offset_mapping"]
    ]
    return encoded["input_ids"][:max_length], counted[:max_length]


def supervised(
    conversations: Sequence[Sequence[Message]], form: str, tokenizer: Any, max_length: int, cache: Path
) -> Rows:
    """Rows for training on answers, cached. A row whose prompt alone fills `max_length` has no loss and is left out.

    Raises:
        ConfigError: Every row is left out.
    """
    if not tokenizer.is_fast:
        raise ConfigError(f"task.prompt: {form} needs a tokenizer that tells offsets; this model has a slow one")
    wrap, eos = FORMS[form], tokenizer.eos_token

    def build() -> Rows:
        encoded = (encode(wrap(messages, eos), tokenizer, max_length) for messages in conversations)
        return Rows.of((ids, counted) for ids, counted in encoded if any(counted))

    shape = [VERSIONS[form], max_length, tokenizer_fingerprint(tokenizer)]
    rows = cached(cache, fingerprint("supervised", list(map(list, conversations)), *shape), build)
    if not len(rows):
        raise ConfigError(f"task.max_length: no row has an answer within {max_length} tokens")
    return rows
