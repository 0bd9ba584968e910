"""Prompts, published ones and those of a model's own chat template, and the tokens on which the loss counts.

A conversation becomes a transcript: a text with spans, each of which covers an answer and its end token. The loss
counts on the tokens in a span. The whole text is tokenised at once, as in the published code, so that its tokens are
the same as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ConfigError, one_line
from .rows import Rows, cached, end_token, fingerprint, tokenizer_fingerprint

# Records hold the version of the prompt. Raise a version when the text of the prompt changes.
VERSIONS = {
    "alpaca": "alpaca-1",
    "open-instruct": "open-instruct-1",
    "plain": "plain-1",
    "raw": "raw-1",
    "template": "template-1",
}
PUBLISHED = ("alpaca", "open-instruct")

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
    """A conversation as one text, and the ranges of its characters on which the loss counts.

    Attributes:
        text: The conversation.
        spans: (first, behind the last) character of each range.
        has_special_tokens: Whether the text holds all special tokens itself, so that the tokenizer adds none.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    has_special_tokens: bool = False

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
    return _under_headers(messages, eos, lambda role: f"<|{role}|>\n", "\n")


def plain_headers(messages: Sequence[Message], eos: str) -> Transcript:
    """The prompt for models without a chat template: the lines `User:` and `Assistant:`, each above its message.

    Blank lines stand between messages, and the end token closes each answer.
    """
    return _under_headers(messages, eos, lambda role: f"{role.capitalize()}:\n", "\n\n")


def _under_headers(messages: Sequence[Message], eos: str, header: Callable[[str], str], gap: str) -> Transcript:
    """Messages, each below the header of its role, with `gap` between them and the end token behind each answer."""
    text, spans = "", []
    for message in messages:
        text += header(message["role"])
        start = len(text)
        text += message["content"].strip()
        if message["role"] == "assistant":
            text += eos
            spans.append((start, len(text)))
        text += gap
    return Transcript(text.removesuffix(gap), tuple(spans))


def raw(messages: Sequence[Message], eos: str) -> Transcript:
    """One question and its answer, joined as they are, and the end token."""
    question, answer = (message["content"] for message in messages)
    return Transcript(question + answer + eos, ((len(question), len(question + answer + eos)),))


Transcriber = Callable[[Sequence[Message], str], Transcript]
FORMS: dict[str, Transcriber] = {
    "alpaca": alpaca,
    "open-instruct": open_instruct,
    "plain": plain_headers,
    "raw": raw,
}


@dataclass(frozen=True)
class Prompt:
    """What turns a conversation into a transcript.

    Attributes:
        name: One of `VERSIONS`.
        version: For records: the version of the prompt, and for a chat template its hash.
        transcribe: The transcript of messages; with an empty end token the spans hold the texts of the answers alone.
        end: The text that ends a generated answer.
    """

    name: str
    version: str
    transcribe: Transcriber
    end: str


def prompt_of(name: str, tokenizer: Any) -> Prompt:
    """The prompt of a name (`task.prompt`): `auto` is the model's chat template, or `plain` where there is none.

    Raises:
        ConfigError: The model has no chat template, or its template does not tell answers apart.
    """
    if name == "auto":
        name = "template" if getattr(tokenizer, "chat_template", None) else "plain"
    if name != "template":
        return Prompt(name, VERSIONS[name], FORMS[name], tokenizer.eos_token)
    template = ChatTemplate(tokenizer)
    return Prompt(name, f"{VERSIONS[name]}-{template.fingerprint}", template, template.end)


# A template may print the date. With the date of the day, the same run would train on another text each day. So the
# template gets a function of its own that writes a fixed date, in place of the function of transformers.
DATE = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%B": "July", "%b": "Jul", "%d": "26", "%A": "Friday", "%a": "Fri"},
    **{"%H": "12", "%M": "00", "%S": "00"},
}
DATED = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{sign}', '{text}')" for sign, text in DATE.items())
    + " }}{% endmacro %}"
)


def template_settings(tokenizer: Any) -> dict[str, Any]:
    """What `apply_chat_template` gets, so that a conversation is the same text every day.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    template = tokenizer.get_chat_template()
    dated = DATED + template if "strftime_now" in template else template
    return {"chat_template": dated, "date_string": "26 Jul 2024"}


MARK = "ANSWER-7f3a9c"  # stands in the place of an answer, to find where the template puts the answer


class ChatTemplate:
    """The model's own chat template. The loss counts on the answers, and on what the template puts at their end.

    A template is a program. To find an answer in its text, the conversation is printed a second time with a mark in the
    place of the answer: the answer is what differs.

    Attributes:
        end: What the template puts behind the last answer, without white space: an end token, as a rule.

    Raises:
        ConfigError: The tokenizer has no chat template, or the template does not print answers as they are.
    """

    def __init__(self, tokenizer: Any) -> None:
        try:
            self.settings = template_settings(tokenizer)
        except (ValueError, AttributeError):
            raise ConfigError(
                "task.prompt=template: the model has no chat template; allowed: plain, raw, alpaca, open-instruct"
            ) from None
        self.tokenizer, self.fingerprint = tokenizer, fingerprint(tokenizer.get_chat_template())
        _, mark, behind = self._printed(pair("a", MARK)).partition(MARK)
        if not mark or MARK in behind:
            self._refuse("does not print an answer once and as it is")
        self.end = behind.strip()

    def __call__(self, messages: Sequence[Message], eos: str) -> Transcript:
        """The transcript of a conversation; with an empty `eos` the spans hold the texts of the answers alone."""
        text, spans = self._printed(messages), []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            marked = self._printed([*messages[:i], {"role": "assistant", "content": MARK}, *messages[i + 1 :]])
            before, mark, behind = marked.partition(MARK)
            last = len(text) - len(behind)
            if not (mark and text.startswith(before) and text.endswith(behind) and len(before) < last):
                self._refuse("prints an answer so that the answer cannot be told from the rest of the text")
            end = last + len(behind) - len(behind.lstrip())
            if eos and self.end and text.startswith(self.end, end):
                last = end + len(self.end)
            spans.append((len(before), last))
        return Transcript(text, tuple(spans), has_special_tokens=True)

    def _printed(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, **self.settings))
        except (TemplateError, TypeError, ValueError) as error:
            self._refuse(f"refuses a conversation ({one_line(str(error))})")

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"task.prompt=template: the model's chat template {why}; allowed beside it: plain")


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
    encoded = tokenizer(
        transcript.text,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        add_special_tokens=not transcript.has_special_tokens,
    )
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
    conversations: Sequence[Sequence[Message]], name: str, tokenizer: Any, max_length: int, cache: Path
) -> Rows:
    """The rows that train on the answers of conversations, cached.

    A conversation whose first `max_length` tokens reach no answer is left out.

    Raises:
        ConfigError: Every conversation is left out, or the tokenizer does not say which characters a token covers, or
            it has no end token.
    """
    if not tokenizer.is_fast:
        raise ConfigError(f"task.prompt: {name} needs a fast tokenizer, which gives offsets; this model has a slow one")
    prompt, eos = prompt_of(name, tokenizer), end_token(tokenizer)

    def build() -> Rows:
        encoded = (encode(prompt.transcribe(messages, eos), tokenizer, max_length) for messages in conversations)
        return Rows.of((ids, counted) for ids, counted in encoded if any(counted))

    settings = [prompt.version, max_length, tokenizer_fingerprint(tokenizer)]
    rows = cached(cache, fingerprint("supervised", list(map(list, conversations)), *settings), build)
    if not len(rows):
        raise ConfigError(f"task.max_length: no row has an answer within {max_length} tokens")
    return rows
