"""The model in memory as lm-eval sees it, with its batches divided over the ranks.

lm-eval can deal out documents itself. Then a document shares its batch with others than in a single process, and what
a batch is padded to changes the last bits of its numbers. Here the batches are those of a single process, and every
rank gets all answers: to lm-eval each of them is alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import Collator

from ..spec import ranks
from .progress import bar


class DividedLM(HFLM):  # type: ignore[misc]
    """`HFLM` that answers each batch on one rank."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Any]:
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm or not ranks.first()))

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
        # A request is (texts, context, continuation). Those that differ in the last token alone share one computation.
        def shared(request: Any) -> tuple[int, ...]:
            return tuple(request[1] + request[2][:-1])

        groups: dict[tuple[int, ...], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(shared(request), []).append(i)
        order = Collator(
            requests,
            sort_fn=lambda r: (-len(r[1] + r[2]), tuple(r[1] + r[2])),
            group_by="contexts" if self.logits_cache else None,
            group_fn=lambda r: r[1] + r[2][:-1],
        )
        batches = []
        for batch in order.get_batched(n=self.batch_size):
            if self.logits_cache:
                batches.append([i for request in batch for i in groups[shared(request)]])
            else:
                batches.append([groups[shared(request)].pop(0) for request in batch])
        answer = super()._loglikelihood_tokens
        kwargs["disable_tqdm"] = True
        return _divided(batches, lambda batch: answer([requests[i] for i in batch], *args, **kwargs), len(requests))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        order = Collator(
            list(enumerate(requests)),
            sort_fn=lambda r: (-len(self.tok_encode(r[1].args[0])), r[1].args[0]),
            group_by="gen_kwargs",
            group_fn=lambda r: r[1].args[1],
        )
        batches = [[i for i, _ in batch] for batch in order.get_batched(n=self.batch_size)]
        answer = super().generate_until
        return _divided(batches, lambda batch: answer([requests[i] for i in batch], disable_tqdm=True), len(requests))

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        # Left to itself, generate would wait at each token for ranks that have no such batch.
        return super()._model_generate(*args, **kwargs, synced_gpus=False)


def _divided(batches: Sequence[list[int]], answer: Any, count: int) -> list[Any]:
    """The answers to `count` requests, asked a batch of indices at a time, with one bar over all."""
    shown = bar(total=len(batches), unit="batch", desc="questions", disable=not ranks.first())

    def do(batch: list[int]) -> list[Any]:
        answers = answer(batch)
        shown.update(ranks.current().count)
        return list(answers)

    with shown:
        answered = ranks.divided(batches, do)
    found: list[Any] = [None] * count
    for batch, answers in zip(batches, answered, strict=True):
        for i, one in zip(batch, answers, strict=True):
            found[i] = one
    return found
