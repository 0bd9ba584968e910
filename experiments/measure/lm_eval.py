"""The model in memory as lm-eval sees it, with its batches divided over the ranks.

lm-eval can divide documents over ranks itself. Then a document shares its batch with other documents than in a single
process, is padded to another length, and its numbers differ in the last bits. Here the batches are those of a single
process, each rank computes some of them, and every rank gets all answers: to lm-eval each rank is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import Collator

from ..spec import ranks
from .progress import bar


class DividedLM(HFLM):  # type: ignore[misc]
    """`HFLM` that computes each batch on one rank, and notes the questions whose prompts lm-eval cuts.

    Attributes:
        cut: (task, question) of each question that does not fit into the model: lm-eval drops the first tokens.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cut: set[tuple[str, int]] = set()
        self._asked: Sequence[Any] = ()

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Any]:
        self._asked = requests
        try:
            return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm or not ranks.first()))
        finally:
            self._asked = ()

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
        # A request is (texts, context, continuation), in the order of `_asked`. Requests that differ in the last token
        # only share a computation.
        def shared_tokens(request: Any) -> tuple[int, ...]:
            return tuple(request[1] + request[2][:-1])

        if self._asked:
            self._note_cut(self._asked, [len(r[1]) + len(r[2]) - 1 - self.max_length for r in requests])
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(shared_tokens(request), []).append(i)
        order = Collator(
            requests,
            sort_fn=lambda r: (-len(r[1] + r[2]), tuple(r[1] + r[2])),
            group_by="contexts" if self.logits_cache else None,
            group_fn=lambda r: r[1] + r[2][:-1],
        )
        batches = []
        for batch in order.get_batched(n=self.batch_size):
            if self.logits_cache:
                batches.append([i for request in batch for i in groups[shared_tokens(request)]])
            else:
                batches.append([groups[shared_tokens(request)].pop(0) for request in batch])
        answer = super()._loglikelihood_tokens
        kwargs["disable_tqdm"] = True
        return _divided(batches, lambda batch: answer([requests[i] for i in batch], *args, **kwargs), len(requests))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        room = [self.max_length - request.args[1].get("max_gen_toks", self.max_gen_toks) for request in requests]
        self._note_cut(requests, [length - most for length, most in zip(lengths, room, strict=True)])
        order = Collator(
            list(enumerate(requests)),
            sort_fn=lambda r: (-lengths[r[0]], r[1].args[0]),
            group_by="gen_kwargs",
            group_fn=lambda r: r[1].args[1],
        )
        batches = [[i for i, _ in batch] for batch in order.get_batched(n=self.batch_size)]
        answer = super().generate_until
        return _divided(batches, lambda batch: answer([requests[i] for i in batch], disable_tqdm=True), len(requests))

    def _note_cut(self, asked: Sequence[Any], surplus: Sequence[int]) -> None:
        """Note the questions that have a positive surplus: so many tokens lm-eval cuts."""
        self.cut |= {(a.task_name, a.doc_id) for a, tokens in zip(asked, surplus, strict=True) if tokens > 0}

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        # By default `generate` waits at each token for the other ranks, which do not have this batch.
        return super()._model_generate(*args, **kwargs, synced_gpus=False)


def _divided(batches: Sequence[list[int]], answer: Callable[[list[int]], Sequence[Any]], count: int) -> list[Any]:
    """The answers to `count` requests in their order, with one progress bar over all batches.

    Args:
        batches: The indices of the requests of each batch.
        answer: Gives the answers to a batch.
        count: The number of requests.
    """
    progress = bar(total=len(batches), unit="batch", desc="questions", disable=not ranks.first())

    def answer_batch(batch: list[int]) -> list[Any]:
        answers = answer(batch)
        progress.update(ranks.current().count)
        return list(answers)

    with progress:
        answers_of_batches = ranks.divided(batches, answer_batch)
    answers: list[Any] = [None] * count
    for batch, batch_answers in zip(batches, answers_of_batches, strict=True):
        for i, request_answer in zip(batch, batch_answers, strict=True):
            answers[i] = request_answer
    return answers
