"""Pretraining from random weights (section 3.4, Table 3, Figures 4 and 5), measured by perplexity on held-out C4.

At paper scale C4 is streamed. From packages the text is the Brown corpus, thirty Wikipedia articles and 240 C4
documents, some 7.5 MB; 60 other C4 documents are held out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..data import corpora, hub, overlap, userfile
from ..data.rows import Rows, fingerprint
from ..data.windows import packed, windows
from ..measure.evaluation import Loss
from ..spec.run_config import RunConfig
from .base import Prepared
from .finetuning import origins

ON_THE_WAY = 16  # held-out windows that a point of the curve looks at
HUB_HELD_OUT = 10_000  # validation documents of C4, some 10 million tokens as in ReLoRA's evaluation


@dataclass(frozen=True)
class HeldOut:
    """Windows of held-out C4, and the UTF-8 length of their text."""

    rows: Rows
    text_bytes: int


class PretrainTask:
    name = "pretrain"
    version = 1
    headline = "perplexity"
    paper_model = "LLaMA 250M"

    def prepare(self, config: RunConfig, tokenizer: Any) -> Prepared:
        t, cache = config.task, config.paths.cache_folder
        assert t.max_length
        if t.data == "hub":
            held_out = list(itertools.islice(hub.c4("validation"), t.heldout_rows or HUB_HELD_OUT))
        else:
            held_out = corpora.c4(cache)[1][: t.heldout_rows]
        measured = packed(held_out, tokenizer, t.max_length, cache, keep_rest=True)
        data = HeldOut(measured, sum(len(text.encode()) for text in held_out))
        if t.data == "hub" and not t.train_file:
            # 5.2 billion tokens at paper scale: neither the overlap check nor the cache can hold them.
            train = stream(tokenizer, t.max_length)
            notes = {"overlap": "not checked: C4 is streamed, train and validation as published", "sources": ["hub"]}
            return Prepared(train, data, fingerprint(hub.C4, held_out), notes, mean_length=t.max_length)
        documents = userfile.documents(t.train_file) if t.train_file else corpora.pretraining_text(cache)
        documents, found = overlap.filtered(self.name, documents, str, held_out, t.drop_overlap, t.train_rows)
        train = packed(documents, tokenizer, t.max_length, cache)
        return Prepared(
            train,
            data,
            fingerprint(documents, held_out),
            {"overlap": found, "sources": origins(config, "brown", "llamafactory")},
        )

    def baseline(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        return {}  # random weights: nothing is known of them

    def measure(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        return {"heldout_loss": Loss.of(model, prepared.data.rows[:ON_THE_WAY]).mean}

    def evaluate(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        data: HeldOut = prepared.data
        measured = Loss.of(model, data.rows)
        return {"perplexity": measured.perplexity, "bits_per_byte": measured.bits / data.text_bytes}


def stream(tokenizer: Any, length: int) -> Any:
    """C4 as an endless iterable of full windows; the Trainer skips what a resumed run has seen."""
    import torch

    class Windows(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for ids in windows(hub.c4("train"), tokenizer, length, keep_rest=False):
                row = torch.tensor(ids)
                yield {"input_ids": row, "labels": row.clone()}

    return Windows()


TASK = PretrainTask()
