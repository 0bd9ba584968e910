"""Measuring a model in memory: loss on texts, and benchmarks through lm-eval.

Nothing here leaves a trace: the global random state and the model's mode are as they were found.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.questions import Benchmark, Choice
from ..data.rows import Rows
from ..spec import ranks

TOKENS_A_BATCH = 2048  # padded tokens whose logits are held at once


@dataclass
class Answers:
    """What a model answered.

    Attributes:
        lm_eval: lm-eval's own number, a fraction: `acc` of choices, `exact_match` of generations.
        likelihoods: Log-likelihood of every choice of every question, in nats.
        texts: The generations.
    """

    lm_eval: float
    likelihoods: list[list[float]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> list[int]:
        """The likeliest choice of each question."""
        return [row.index(max(row)) for row in self.likelihoods]


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Evaluation mode; afterwards the mode and every global random state are put back."""
    import numpy as np
    import torch

    was_training = model.training
    states = random.getstate(), np.random.get_state()
    model.eval()
    try:
        with torch.random.fork_rng(), torch.inference_mode():
            yield
    finally:
        model.train(was_training)
        random.setstate(states[0])
        np.random.set_state(states[1])


@dataclass(frozen=True)
class Loss:
    """Summed loss in nats, and the number of tokens on which it counts: over the whole of a held-out slice.

    The first token of each row is context only, since nothing stands before it.
    """

    nats: float
    tokens: int

    @classmethod
    def of(cls, model: Any, rows: Rows) -> Loss:
        """Measured on `rows`; the sum is kept in double precision, and rows of like length share a batch."""
        import torch

        from ..data.rows import collate

        batches = []
        order = sorted(range(len(rows)), key=lambda i: rows.lengths[i], reverse=True)
        while order:
            size = max(1, TOKENS_A_BATCH // int(rows.lengths[order[0]]))
            batches.append(order[:size])
            order = order[size:]

        def measure(indices: list[int]) -> tuple[float, int]:
            batch = {k: v.to(model.device) for k, v in collate([rows[i] for i in indices]).items()}
            labels = batch.pop("labels")[:, 1:]
            logits = model(**batch, use_cache=False).logits[:, :-1]
            wanted = labels >= 0
            each = torch.nn.functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="none")
            return each.double().sum().item(), int(wanted.sum())

        nats, tokens = 0.0, 0
        with undisturbed(model):
            for batch_nats, batch_tokens in ranks.divided(batches, measure):
                nats += batch_nats
                tokens += batch_tokens
        return cls(nats, tokens)

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Of the whole slice: exp of the token-weighted mean loss. The one definition, which every table uses."""
        return math.exp(min(self.mean, 700.0))  # beyond that a float overflows

    @property
    def bits(self) -> float:
        """The sum in bits; over the UTF-8 length of the text it is comparable across tokenizers."""
        return self.nats / math.log(2)


def ask(model: Any, tokenizer: Any, benchmarks: Sequence[Benchmark], batch_size: int) -> dict[str, Answers]:
    """Put the questions of all benchmarks to the model through lm-eval, in one pass and with its progress bars."""
    benchmarks = [b for b in benchmarks if b.questions]
    if not benchmarks:
        return {}
    import torch

    with undisturbed(model), tempfile.TemporaryDirectory(prefix="mora-lm-eval-") as folder, _quiet():
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        from .lm_eval import DividedLM

        starts_with_bos = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        with torch.inference_mode():
            output = simple_evaluate(
                model=DividedLM(
                    pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=starts_with_bos
                ),
                tasks=[b.as_task(Path(folder)) for b in benchmarks],
                task_manager=TaskManager(include_path=folder, include_defaults=False),
                num_fewshot=0,
                bootstrap_iters=0,
                log_samples=True,
            )
    # lm-eval sums up on the first rank of a node alone.
    return ranks.broadcast({b.name: _answers(b, output) for b in benchmarks} if output else {})


def _answers(benchmark: Benchmark, output: dict[str, Any]) -> Answers:
    samples = sorted(output["samples"][benchmark.name], key=lambda sample: sample["doc_id"])
    scores = output["results"][benchmark.name]
    if isinstance(benchmark.questions[0], Choice):
        likelihoods = [[float(answer[0][0]) for answer in sample["resps"]] for sample in samples]
        return Answers(float(scores["acc,none"]), likelihoods=likelihoods)
    return Answers(float(scores["exact_match,extract"]), texts=[str(sample["resps"][0][0]) for sample in samples])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval tells about every default it takes; only its warnings and progress bars are of use."""
    import logging

    import datasets

    previous, bars = logging.root.manager.disable, datasets.are_progress_bars_disabled()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.disable(previous)
        if not bars:
            datasets.enable_progress_bars()
        sys.stderr.flush()
