"""Pretraining from random weights (section 3.4, Table 3, Figures 4 and 5), measured by perplexity on held-out C4.

At paper scale C4 is streamed. From packages the text is the Brown corpus, thirty Wikipedia articles and 240 C4
documents, some 7.5 MB in all; 60 other C4 documents are held out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ..data import corpora, hub, overlap, userfile
from ..data.rows import fingerprint
from ..data.windows import packed, windows
from ..errors import ConfigError
from ..measure.evaluation import Loss
from ..spec import shapes
from ..spec.run_config import RunConfig
from .base import Metric, Task, TaskData
from .finetuning import EvaluationSet, origins, text_rows

CURVE_ROWS = 16  # a point of the curve measures so many held-out windows


class PretrainTask(Task):
    """Pretraining from random weights."""

    name = "pretrain"
    version = 1
    needs = ("max_length",)
    headline = "perplexity"
    metrics = (
        Metric("perplexity", "perplexity", higher_is_better=False, unit="", documents="heldout_rows"),
        Metric("bits_per_byte", "bits per byte", higher_is_better=False, unit="", documents="heldout_rows"),
    )
    paper_model = "LLaMA 250M"

    def ratios(self, config: RunConfig, parameters: int) -> dict[str, float]:
        shape, t = shapes.at_hand(config.model, config.paths.cache_folder), config.training
        if shape is None:
            return {}
        return {"tokens / parameter": t.steps * t.batch_size * self.row_tokens(config) / shape.parameters}

    def prepare(self, config: RunConfig, tokenizer: Any) -> TaskData:
        t, cache = config.task, config.paths.cache_folder
        assert t.max_length
        if t.heldout_file:
            held_out = userfile.documents(t.heldout_file, userfile.HELD_OUT)[: t.heldout_rows]
        elif t.data == "hub":
            held_out = list(itertools.islice(hub.c4("validation", t.data_dir), t.heldout_rows))
        else:
            held_out = corpora.c4(cache)[1][: t.heldout_rows]
        evaluation = EvaluationSet(*text_rows(held_out, tokenizer, config))
        if t.data == "hub" and not t.train_file:
            # 5.2 billion tokens at paper scale: neither the overlap check nor the cache can hold them.
            train = stream(tokenizer, t.max_length, t.train_rows, t.data_dir)
            notes: dict[str, Any] = {
                "overlap": "not checked: C4 is streamed, train and validation as published",
                "sources": hub.origins((hub.C4,), t.data_dir),
            }
            return TaskData(train, evaluation, fingerprint(hub.C4, held_out), notes, mean_length=t.max_length)
        documents = userfile.documents(t.train_file) if t.train_file else corpora.pretraining_text(cache)
        documents, counts = overlap.filtered(self.name, documents, str, held_out, t.drop_overlap, t.train_rows)
        notes = {"overlap": counts, "sources": origins(config, ("brown", "llamafactory"), (hub.C4,))}
        train = packed(documents, tokenizer, t.max_length, cache)
        return TaskData(train, evaluation, fingerprint(documents, held_out), notes)

    def measure(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        return {"heldout_loss": Loss.of(model, data.evaluation.rows[:CURVE_ROWS]).mean}

    def evaluate(self, model: Any, tokenizer: Any, data: TaskData) -> dict[str, float]:
        evaluation: EvaluationSet = data.evaluation
        loss = Loss.of(model, evaluation.rows)
        return {"perplexity": loss.perplexity, "bits_per_byte": loss.bits / evaluation.text_bytes}


def stream(tokenizer: Any, length: int, documents: int | None = None, copies: str | None = None) -> Any:
    """The first `documents` of C4, or all, as an iterable of full windows; `copies` as in `data.hub`.

    The Trainer of a resumed run skips what the run has seen.
    """
    import torch

    class StreamedWindows(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            ids = None
            texts = itertools.islice(hub.c4("train", copies), documents)
            for ids in windows(texts, tokenizer, length, keep_rest=False):
                row = torch.tensor(ids)
                yield {"input_ids": row, "labels": row.clone()}
            if ids is None:
                raise ConfigError(f"task.train_rows: {documents} documents do not fill one window of {length} tokens")

    return StreamedWindows()


TASK = PretrainTask()
