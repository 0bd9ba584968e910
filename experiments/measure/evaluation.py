"""Measuring a model in memory: the loss on rows, and benchmarks through lm-eval.

A measurement leaves no trace: `evaluation_mode` puts the global random states and the mode of the model back.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.prompts import template_settings
from ..data.questions import Benchmark, ChoiceQuestion
from ..data.rows import Rows
from ..spec import ranks

TOKENS_A_BATCH = 2048  # padded tokens whose logits are in memory at once


@dataclass
class Answers:
    """The answers of a model to the questions of one benchmark.

    Attributes:
        lm_eval: lm-eval's own score, a fraction: `acc` for choices, `exact_match` for generated texts.
        likelihoods: The log-likelihood of every choice of every question, in nats.
        texts: The generated texts.
        cut: How many questions were longer than the model reads, so that lm-eval cut their first tokens off.
    """

    lm_eval: float
    likelihoods: list[list[float]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    cut: int = 0

    @property
    def chosen(self) -> list[int]:
        """The likeliest choice of each question."""
        return [row.index(max(row)) for row in self.likelihoods]


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode and inference mode, with the whole weights on every rank.

    At the end the mode of the model and every global random state are what they were before.
    """
    import numpy as np
    import torch

    was_training = model.training
    states = random.getstate(), np.random.get_state()
    model.eval()
    try:
        with torch.random.fork_rng(), weights_on_every_rank(model), torch.inference_mode():
            yield
    finally:
        model.train(was_training)
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def weights_on_every_rank(model: Any) -> Iterator[None]:
    """Gather the weights that FSDP shards, so that every rank can compute on its own; else nothing happens."""
    from torch.distributed.fsdp import FSDPModule

    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    states = [shard._get_fsdp_state() for shard in shards]
    meshes = [(group, group.post_forward_mesh_info) for state in states for group in state._fsdp_param_groups]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for group, mesh in meshes:
            group.post_forward_mesh_info = mesh
            # The next backward pass prefetches by the order of the forward passes before it. Ranks that have measured
            # different numbers of batches would prefetch different layers and wait for one another for ever.
            group._post_forward_indices.clear()
        for state in states:
            state._comm_ctx.post_forward_order.clear()
        for shard in shards:
            shard.reshard()


@dataclass(frozen=True)
class Loss:
    """The sum of the loss over held-out rows, in nats, and the number of tokens on which the loss counts.

    No loss counts on the first token of a row, since no token stands before it.
    """

    nats: float
    tokens: int

    @classmethod
    def of(cls, model: Any, rows: Rows) -> Loss:
        """The loss of a model on rows. The sum is in double precision; rows of similar length share a batch."""
        import torch

        from ..data.rows import collate

        lengths, batches, first = rows.lengths, [], 0
        order = sorted(range(len(rows)), key=lengths.__getitem__, reverse=True)
        while first < len(order):
            size = max(1, TOKENS_A_BATCH // int(lengths[order[first]]))
            batches.append(order[first : first + size])
            first += size

        def batch_loss(indices: list[int]) -> tuple[float, int]:
            batch = {k: v.to(model.device) for k, v in collate([rows[i] for i in indices]).items()}
            labels = batch.pop("labels")[:, 1:]
            logits = model(**batch, use_cache=False).logits[:, :-1]
            counts = labels >= 0
            nats = torch.nn.functional.cross_entropy(logits[counts].float(), labels[counts], reduction="none")
            return nats.double().sum().item(), int(counts.sum())

        nats, tokens = 0.0, 0
        with evaluation_mode(model):
            for batch_nats, batch_tokens in ranks.divided(batches, batch_loss):
                nats += batch_nats
                tokens += batch_tokens
        return cls(nats, tokens)

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss over all tokens of all rows. Every table uses this definition."""
        return math.exp(min(self.mean, 340.0))  # a larger number is no number of a record

    @property
    def bits(self) -> float:
        """The sum in bits. Divided by the UTF-8 length of the text, it is comparable across tokenizers."""
        return self.nats / math.log(2)


def ask(model: Any, tokenizer: Any, benchmarks: Sequence[Benchmark], batch_size: int) -> dict[str, Answers]:
    """Put the questions of all benchmarks to the model through lm-eval, in one pass with its progress bars.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.
        benchmarks: The benchmarks; a benchmark without questions has no answers.
        batch_size: How many questions the model computes at once.

    Returns:
        The answers by the name of the benchmark.
    """
    benchmarks = [b for b in benchmarks if b.questions]
    if not benchmarks:
        return {}
    with evaluation_mode(model), tempfile.TemporaryDirectory(prefix="mora-lm-eval-") as folder, quiet():
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        lm = as_lm(model, tokenizer, batch_size)
        output = simple_evaluate(
            model=lm,
            tasks=[b.as_task(Path(folder)) for b in benchmarks],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            num_fewshot=0,
            bootstrap_iters=0,
            log_samples=True,
        )
    cut = cut_questions(lm)
    # lm-eval returns results on the first rank of a node only.
    return ranks.broadcast({b.name: _answers(b, output, cut[b.name]) for b in benchmarks} if output else {})


def cut_questions(lm: Any) -> Counter[str]:
    """Task of lm-eval -> how many of its questions were longer than the model reads. A warning names each such task."""
    cut = Counter(name for name, _ in lm.cut)
    for name, count in sorted(cut.items()) if ranks.first() else ():
        print(
            f"warning: {name}: {count} questions are longer than the {lm.max_length} tokens that the model reads; "
            f"their first tokens were cut off, and the record says so ({name}_cut)",
            file=sys.stderr,
        )
    return cut


def as_lm(model: Any, tokenizer: Any, batch_size: int, *, template: bool = False) -> Any:
    """The model as lm-eval sees it. A text has the tokenizer's first token in front if the tokenizer puts it there.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.
        batch_size: How many questions the model computes at once.
        template: Whether the questions will be put in the model's chat template.
    """
    from .lm_eval import DividedLM

    return DividedLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        add_bos_token=tokenizer.encode("a")[:1] == [tokenizer.bos_token_id],
        chat_template_args=template_settings(tokenizer) if template else {},
    )


def _answers(benchmark: Benchmark, output: dict[str, Any], cut: int) -> Answers:
    samples = sorted(output["samples"][benchmark.name], key=lambda sample: sample["doc_id"])
    scores = output["results"][benchmark.name]
    if isinstance(benchmark.questions[0], ChoiceQuestion):
        likelihoods = [[float(choice[0][0]) for choice in sample["resps"]] for sample in samples]
        return Answers(float(scores["acc,none"]), likelihoods=likelihoods, cut=cut)
    texts = [str(sample["resps"][0][0]) for sample in samples]
    return Answers(float(scores["exact_match,extract"]), texts=texts, cut=cut)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what lm-eval logs about its defaults, and the bars of `datasets`. lm-eval's own bars stay."""
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
