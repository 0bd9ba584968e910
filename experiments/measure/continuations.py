"""Answers that a model generates, greedily and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..spec import ranks
from .evaluation import evaluation_mode

if TYPE_CHECKING:
    from torch import Tensor


def generated(model: Any, prompts: Sequence[list[int]], pad: int, **settings: Any) -> Tensor:
    """The likeliest new tokens behind each prompt of a batch: (prompts, new tokens).

    Args:
        model: The model.
        prompts: Token ids.
        pad: Any token: the attention mask hides it.
        settings: Further settings of transformers' `generate`.
    """
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        pad_token_id=pad,
        use_cache=True,
        synced_gpus=False,  # every rank has the whole weights, and batches of its own
        **settings,
    )
    return output[:, width:]


def answers(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], end: str, new_tokens: int, batch_size: int
) -> list[str]:
    """The likeliest continuation of each prompt, token by token, without white space at its ends.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.
        prompts: Token ids.
        end: The text that ends an answer, beside the end token.
        new_tokens: An answer has so many tokens at most.
        batch_size: How many prompts the model continues at once.
    """
    stop = {tokenizer.eos_token_id}
    ids_of_end = tokenizer.encode(end, add_special_tokens=False) if end else []
    if len(ids_of_end) == 1:
        stop.add(ids_of_end[0])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def batch_answers(first: int) -> list[str]:
        batch = prompts[first : first + batch_size]
        new = generated(model, batch, pad, max_new_tokens=new_tokens, eos_token_id=sorted(stop))
        return [_answer(row) for row in new.tolist()]

    def _answer(ids: list[int]) -> str:
        length = next((i for i, token in enumerate(ids) if token in stop), len(ids))
        text = str(tokenizer.decode(ids[:length]))
        return (text.partition(end)[0] if end else text).strip()

    with evaluation_mode(model):
        batches = ranks.divided(range(0, len(prompts), batch_size), batch_answers)
    return [answer for batch in batches for answer in batch]
