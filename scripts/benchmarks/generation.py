"""Generated tokens a second: a batch with the cache, as the harness evaluates, against one by one and without cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from mora import MoraConfig

from . import models, timing

CASES = (("tiny", 32, 36), ("smollm2-135m", 4, 12))  # model, prompts, new tokens
PROMPT = 38  # tokens


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each model and way."""
    for name, count, length in CASES:
        config = MoraConfig(r=8, target_modules=models.TARGETS)
        model = models.adapted(models.base(name), config).eval()
        ids = torch.randint(3, model.config.vocab_size, (count, PROMPT), generator=torch.Generator().manual_seed(0))

        one = [row[None] for row in ids]
        ways = {
            "one by one": partial(generate, model, one, length),
            "one by one, without cache": partial(generate, model, one, length, cache=False),
            "batched": partial(generate, model, [ids], length),
        }
        samples = timing.alternate(ways, 1.0 if quick else 8.0, (2, 3) if quick else (3, 15))
        for way, times in samples.items():
            summary = timing.summary(times)
            speed = round(count * length / summary["median"], 1)
            against = timing.ratio(samples, "one by one", way)
            row = {"model": name, "prompts": count, "new_tokens": length, "way": way, "tokens_per_second": speed}
            yield row | {"time": summary, "ratio": against}


def generate(model: Any, batches: list[torch.Tensor], length: int, cache: bool = True) -> None:
    """So many new tokens for each prompt, whatever they are."""
    for ids in batches:
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=length,
                min_new_tokens=length,
                pad_token_id=0,
                use_cache=cache,
            )
