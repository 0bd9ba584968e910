"""Memorising UUID pairs (section 3.1): can an update of this rank store arbitrary facts?

An example is `<s>key:value` with two random texts of uuid4 and no end token. The loss counts on key and value. Nothing
tells the key, so the loss on the key cannot fall below the entropy of the key, ln(pairs) nats over all its tokens: key
and value are reported apart. The accuracy is measured by greedy generation after `key:` for the pairs that train. The
dashes are removed, and the 32 hexadecimal digits are compared position by position.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.rows import Rows
from ..measure.continuations import generated
from ..measure.evaluation import Loss, evaluation_mode
from ..spec import ranks
from ..spec.run_config import RunConfig
from .base import Metric, Task, TaskData

HEX_DIGITS = 32
# The expected accuracy of a guess, in percent: 30 random digits of 16, the version digit, which is always 4, and the
# variant digit, which is one of four.
GUESS = 100 * (30 / 16 + 1 + 1 / 4) / HEX_DIGITS
ROW_TOKENS = 75  # <s>, a space in front, two UUIDs of 36 characters, a colon: one token a character, at most
BITS = 2 * 122  # random bits of a key and its value: 128 of a UUID, less 6 of its version and variant
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class UuidPairs:
    """The pairs of a run.

    Attributes:
        pairs: Key and value of each pair.
        prompts: The token ids of `<s>key:`, for each pair.
        answers: The token ids of the value, for each pair. They stand behind the prompt's in the training row.
        curve_pairs: A point of the curve measures so many of the pairs.
    """

    pairs: list[tuple[str, str]]
    prompts: list[list[int]]
    answers: list[list[int]]
    curve_pairs: int


def make_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs of uuid4 texts. The same seed gives the same pairs on every machine."""
    source = random.Random(f"uuid-{seed}")

    def uuid4() -> str:
        return str(uuid.UUID(int=source.getrandbits(128), version=4))

    return [(uuid4(), uuid4()) for _ in range(count)]


def tokenised(key: str, value: str, tokenizer: Any) -> tuple[list[int], list[int], bool]:
    """The token ids of `key:` and of the value behind it, and whether `key:value` was tokenised as one text.

    The pair is one text, cut behind the ids of `key:`: a tokenizer such as LLaMA's puts a space in front of each text,
    and a value that was tokenised alone would bring this space into the middle of the row. Where the ids of `key:` are
    not the beginning of those of the pair, a token covers the colon and the start of the value. Then `key:` and the
    value are tokenised as two texts, so that the value starts with a token of its own.
    """
    prompt = tokenizer.encode(f"{key}:", add_special_tokens=False)
    pair = tokenizer.encode(f"{key}:{value}", add_special_tokens=False)
    if pair[: len(prompt)] == prompt:
        return prompt, pair[len(prompt) :], True
    return prompt, tokenizer.encode(value, add_special_tokens=False), False


def character_accuracy(generated: str, value: str) -> float:
    """The share of the hexadecimal digits of `value` that stand at their place in the generated text."""
    guess, truth = (text.strip().replace("-", "") for text in (generated, value))
    return sum(a == b for a, b in zip(guess, truth, strict=False)) / HEX_DIGITS


def constant_accuracy(values: list[str]) -> float:
    """The accuracy in percent of the best answer that is the same for every key: the most frequent digit at each place.

    A model that has learned nothing but how often each digit occurs gets so much: the fewer pairs, the more.
    """
    digits = zip(*(value.replace("-", "") for value in values), strict=True)
    return 100 * sum(max(map(place.count, set(place))) for place in digits) / (HEX_DIGITS * len(values))


class UuidTask(Task):
    """Memorising pairs of UUIDs."""

    name = "uuid"
    version = 2
    needs = ("pairs", "eval_pairs")
    headline = "char_accuracy"
    selection = "value_loss"  # the training loss is mostly the loss on keys, which no method can lower below its floor
    # Rates that all end at 100 % differ by some 1e-4 nats of this loss, and reach half of the characters at half the
    # steps or at twice as many.
    curve_selection = "char_accuracy"
    metrics = (
        Metric(
            "char_accuracy",
            "character accuracy",
            questions="pairs",
            drawn=True,
            floor=GUESS,
            floor_of="the best answer that is the same for every key",
        ),
        Metric(
            "key_loss", "loss on keys, nats a token", higher_is_better=False, unit="", questions="pairs", drawn=True
        ),
        Metric(
            "value_loss", "loss on values, nats a token", higher_is_better=False, unit="", questions="pairs", drawn=True
        ),
    )

    def row_tokens(self, config: RunConfig) -> int:
        return ROW_TOKENS

    def ratios(self, config: RunConfig, parameters: int) -> dict[str, float]:
        assert config.task.pairs is not None
        steps = config.task.pairs / config.training.batch_size
        return {
            "adapter parameters / bit to memorise": parameters / (config.task.pairs * BITS),
            "steps / epoch": steps,
            "epochs": config.training.steps / steps,
        }

    def prepare(self, config: RunConfig, tokenizer: Any) -> TaskData:
        import torch

        assert config.task.pairs is not None and config.task.eval_pairs is not None
        pairs = make_pairs(config.task.pairs, config.seed)
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        parts = [tokenised(key, value, tokenizer) for key, value in pairs]
        prompts = [start + prompt for prompt, _, _ in parts]
        answers = [answer for _, answer, _ in parts]
        train = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor(prompt + answer)
            train.append({"input_ids": ids, "labels": ids.clone()})
        fingerprint = hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]
        return TaskData(
            train,
            UuidPairs(pairs, prompts, answers, config.task.eval_pairs),
            fingerprint,
            {"pairs_tokenised_in_two_parts": sum(not at_once for _, _, at_once in parts)},
        )

    def measure(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        pairs: UuidPairs = data.evaluation
        return {"char_accuracy": self.accuracy(model, tokenizer, pairs, pairs.curve_pairs)}

    def evaluate(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        pairs: UuidPairs = data.evaluation
        key_loss, value_loss = self.losses(model, pairs)
        accuracy = self.accuracy(model, tokenizer, pairs, len(pairs.pairs))
        floor = constant_accuracy([value for _, value in pairs.pairs])
        return {
            "char_accuracy": accuracy,
            "key_loss": key_loss,
            "value_loss": value_loss,
            "char_accuracy_floor": floor,
        }

    def accuracy(self, model: Any, tokenizer: Any, data: UuidPairs, count: int) -> float:
        """Character accuracy in percent over the first `count` pairs, by greedy generation in batches."""
        count = min(count, len(data.pairs))
        # The attention mask hides the padding, so any token will do where the tokenizer has none for padding.
        pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        longest = max(map(len, data.answers[:count]))

        def summed_accuracy(first: int) -> float:
            prompts = data.prompts[first : min(first + EVALUATION_BATCH, count)]
            # With the fewest new tokens given too, an end token cannot cut the value short.
            new = generated(model, prompts, pad, max_new_tokens=longest, min_new_tokens=longest)
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            values = (value for _, value in data.pairs[first : first + len(prompts)])
            return sum(character_accuracy(text, value) for text, value in zip(texts, values, strict=True))

        with evaluation_mode(model):
            return 100.0 * sum(ranks.divided(range(0, count, EVALUATION_BATCH), summed_accuracy)) / count

    def losses(self, model: Any, data: UuidPairs) -> tuple[float, float]:
        """Mean cross-entropy in nats a token: over all keys with their colons, and over all values."""

        def loss(on_values: bool) -> float:
            rows = Rows.of(
                (prompt + answer, np.repeat([not on_values, on_values], [len(prompt), len(answer)]))
                for prompt, answer in zip(data.prompts, data.answers, strict=True)
            )
            return Loss.of(model, rows).mean

        return loss(on_values=False), loss(on_values=True)


TASK = UuidTask()
