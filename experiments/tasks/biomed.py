"""Continual pretraining on biomedicine (section 3.2, Tables 1 and 6).

At paper scale the task trains on PubMed abstracts in reading-comprehension form, and measures PubMedQA, USMLE, RCT and
the biomedical subjects of MMLU. From packages it trains on BioASQ abstracts and MedMCQA explanations in the same form,
and measures the perplexity of abstracts of PubMedQA, which neither of them quotes, and subsets of the benchmarks. A
small model answers the benchmarks by chance; the perplexity tells methods apart there.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..data import corpora, hub, questions
from ..data.questions import Benchmark
from ..measure.evaluation import Answers
from ..spec.run_config import RunConfig
from .base import Metric
from .finetuning import (
    GENERAL_PERPLEXITY,
    Document,
    Material,
    TextTask,
    choice,
    heldout_perplexity,
    likeliest_per_token,
    trained_perplexity,
)

ADAPTLLM = ("pubmedqa", "usmle", "rct")  # the benchmarks that AdaptLLM's rule scores


class BiomedTask(TextTask):
    """Continual pretraining on biomedicine."""

    name = "biomed"
    version = 2
    headline = "biomed_avg"
    packages = ("benchmarks", "llamafactory")
    data_sets = (hub.PILE, hub.MEDICINE_TASKS, hub.MMLU)
    scorers = ("per_token_choice",)
    domain = "biomedicine"
    averaged = ("pubmedqa", "usmle", "bio_mmlu", "rct")
    metrics = (
        Metric("pubmedqa", "PubMedQA"),
        Metric("usmle", "USMLE"),
        choice("bio_mmlu", "BioMMLU", 4, questions=1089),
        Metric("rct", "RCT"),
        Metric("biomed_avg", "BioMed average"),
        heldout_perplexity(stands_for="biomed_avg"),
        trained_perplexity(stands_for="biomed_avg"),
        choice("pubmedqa_yesno", "PubMedQA yes/no", 2, stands_for="pubmedqa"),
        choice("medqa_subset", "MedQA subset", 5, stands_for="usmle"),
        choice("bio_mmlu_subset", "BioMMLU subset", 4, stands_for="bio_mmlu"),
        GENERAL_PERPLEXITY,
    )

    def material(self, config: RunConfig) -> Material:
        t, cache = config.task, config.paths.cache_folder
        if t.data == "hub":
            abstracts = hub.pubmed(t.data_dir)
            held_out = list(itertools.islice(abstracts, t.heldout_rows))
            train = map(Document, itertools.islice(abstracts, t.train_rows))
            return Material.of_texts(train, held_out, benchmarks_of_table6(t.data_dir))
        pubmedqa = corpora.yes_no(cache, "pubmedqa")
        bioasq = [abstract for abstract, _ in corpora.yes_no(cache, "bioasq")]
        texts = corpora.shuffled([*bioasq, *corpora.medmcqa_explanations(cache)], "biomed")
        mmlu = questions.some(corpora.mmlu(cache, "test", corpora.MEDICAL_SUBJECTS), t.questions, "bio_mmlu")
        examples = corpora.mmlu(cache, "dev", corpora.MEDICAL_SUBJECTS)
        benchmarks = [
            questions.abstracts("pubmedqa_yesno", questions.some(pubmedqa, t.questions, "pubmedqa")),
            questions.exam("medqa_subset", questions.some(corpora.medqa(cache), t.questions, "medqa")),
            questions.mmlu("bio_mmlu_subset", mmlu, examples, 5),
        ]
        held_out = [abstract for abstract, _ in pubmedqa[: t.heldout_rows]]
        return Material.of_texts(map(Document, texts), held_out, benchmarks)

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        if benchmark.name not in ADAPTLLM:
            return super().score(benchmark, answers, tokenizer)
        chosen = likeliest_per_token(benchmark, answers, tokenizer)
        hits = [choice == question.gold for choice, question in zip(chosen, benchmark.questions, strict=True)]
        return {benchmark.name: 100 * sum(hits) / len(hits), f"{benchmark.name}_lm_eval": 100 * answers.lm_eval}


def benchmarks_of_table6(copies: str | None) -> list[Benchmark]:
    """The four benchmarks of Table 6. The micro F1 of RCT is its accuracy, since a sentence has one label."""
    subjects = [q for q in hub.mmlu("test", copies) if q.subject in corpora.MEDICAL_SUBJECTS]
    return [
        Benchmark("pubmedqa", hub.medicine("PubMedQA", copies)),
        Benchmark("usmle", hub.medicine("USMLE", copies)),
        questions.mmlu("bio_mmlu", subjects, hub.mmlu("dev", copies), 5),
        Benchmark("rct", hub.medicine("RCT", copies)),
    ]


TASK = BiomedTask()
