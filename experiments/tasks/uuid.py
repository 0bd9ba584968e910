"""Memorising UUID pairs (section 3.1): can an update of this rank store arbitrary facts?

Each example is `<s>key:value` with two random uuid4 texts and no end token; the loss counts on key and value. The
key cannot be predicted, so its loss stays at its entropy, ln(pairs) spread over its tokens, and is reported apart.
Accuracy is that of greedy generation after `key:` on the training pairs: dashes are removed and the 32 hexadecimal
characters are compared position by position. Guessing gives 9.77 % (30 of 32 uniform digits, one fixed version
digit, one variant digit of four).
"""

from __future__ import annotations

import hashlib
import random
import uuid
from dataclasses import dataclass
from typing import Any

from ..spec import ranks
from ..spec.run_config import RunConfig
from .base import Prepared

HEX_DIGITS = 32
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Data:
    """The pairs and, for each, its token ids; `prompts[i]` is `<s>key:`, `answers[i]` the value."""

    pairs: list[tuple[str, str]]
    prompts: list[list[int]]
    answers: list[list[int]]
    on_the_way: int  # how many of the pairs a point of the curve looks at


def make_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs of uuid4 texts, the same for the same seed everywhere."""
    source = random.Random(f"uuid-{seed}")

    def one() -> str:
        return str(uuid.UUID(int=source.getrandbits(128), version=4))

    return [(one(), one()) for _ in range(count)]


def character_accuracy(generated: str, value: str) -> float:
    """The share of the value's hexadecimal digits that stand at their place in the generated text."""
    guess, truth = (text.strip().replace("-", "") for text in (generated, value))
    return sum(a == b for a, b in zip(guess, truth, strict=False)) / HEX_DIGITS


class UuidTask:
    name = "uuid"
    version = 1
    headline = "char_accuracy"
    paper_model = "LLaMA-2 7B"

    def prepare(self, config: RunConfig, tokenizer: Any) -> Prepared:
        import torch

        assert config.task.pairs is not None and config.task.eval_pairs is not None
        pairs = make_pairs(config.task.pairs, config.seed)
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        # Key and value are tokenised apart, so that a merge across the colon cannot blur where the value starts.
        prompts = [start + tokenizer.encode(f"{key}:", add_special_tokens=False) for key, _ in pairs]
        answers = [tokenizer.encode(value, add_special_tokens=False) for _, value in pairs]
        train = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor(prompt + answer)
            train.append({"input_ids": ids, "labels": ids.clone()})
        fingerprint = hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]
        return Prepared(train, Data(pairs, prompts, answers, config.task.eval_pairs), fingerprint)

    def baseline(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        return {}  # random pairs: nothing is known of them

    def measure(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        data: Data = prepared.data
        return {self.headline: self.accuracy(model, tokenizer, data, data.on_the_way)}

    def evaluate(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        data: Data = prepared.data
        key_loss, value_loss = self.losses(model, prepared)
        accuracy = self.accuracy(model, tokenizer, data, len(data.pairs))
        return {self.headline: accuracy, "key_loss": key_loss, "value_loss": value_loss}

    def accuracy(self, model: Any, tokenizer: Any, data: Data, count: int) -> float:
        """Percent, over the first `count` pairs. Generation is greedy, batched and cached."""
        import torch

        count = min(count, len(data.pairs))
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        longest = max(map(len, data.answers[:count]))

        def right(first: int) -> float:
            prompts = data.prompts[first : min(first + EVALUATION_BATCH, count)]
            width = max(map(len, prompts))
            ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
            with torch.inference_mode():
                # The tokens of the value are all that is wanted: an end token must not cut it short.
                out = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=longest,
                    min_new_tokens=longest,
                    pad_token_id=pad,
                    use_cache=True,
                    synced_gpus=False,  # each rank has the whole weights, and batches of its own
                )
            texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            values = (value for _, value in data.pairs[first : first + len(prompts)])
            return sum(character_accuracy(text, value) for text, value in zip(texts, values, strict=True))

        return 100.0 * sum(ranks.divided(range(0, count, EVALUATION_BATCH), right)) / count

    def losses(self, model: Any, prepared: Prepared) -> tuple[float, float]:
        """Mean cross-entropy in nats a token, over all keys (with the colon) and over all values."""
        import torch

        from ..data.rows import collate

        data: Data = prepared.data

        def sums(first: int) -> list[tuple[float, int]]:
            rows = list(range(first, min(first + EVALUATION_BATCH, len(data.pairs))))
            batch = {k: v.to(model.device) for k, v in collate([prepared.train[i] for i in rows]).items()}
            labels = batch.pop("labels")
            with torch.inference_mode():
                logits = model(**batch).logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
            ).view(len(rows), -1)
            position = torch.arange(1, labels.shape[1], device=labels.device)
            boundary = torch.tensor([len(data.prompts[i]) for i in rows], device=labels.device)[:, None]
            counted = labels[:, 1:] >= 0
            parts = (counted & (position < boundary), counted & (position >= boundary))
            return [(loss[where].double().sum().item(), int(where.sum())) for where in parts]

        batches = ranks.divided(range(0, len(data.pairs), EVALUATION_BATCH), sums)
        key, value = (
            sum(nats for nats, _ in part) / sum(tokens for _, tokens in part) for part in zip(*batches, strict=True)
        )
        return key, value


TASK = UuidTask()
