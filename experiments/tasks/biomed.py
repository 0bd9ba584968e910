"""Continual pretraining on biomedicine (section 3.2, Tables 1 and 6).

At paper scale: PubMed abstracts in reading-comprehension form; PubMedQA, USMLE, RCT and the biomedical subjects of
MMLU. From packages: BioASQ abstracts and MedMCQA explanations in the same form; perplexity on abstracts of PubMedQA,
which none of them quotes, carries the signal, and subsets of the benchmarks show how the measurement works.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..data import corpora, hub, overlap, questions, reading, userfile
from ..data.questions import Benchmark
from ..measure import scorers
from ..measure.evaluation import Answers
from ..spec.run_config import RunConfig
from .base import Prepared
from .finetuning import FineTuning, chosen_per_token, general_text, on_text, origins

DOMAIN = "biomedicine"
AVERAGED = ("pubmedqa", "usmle", "bio_mmlu", "rct")


class BiomedTask(FineTuning):
    name = "biomed"
    version = 1
    headline = "heldout_perplexity"
    paper_model = "LLaMA-2 7B"

    def prepare(self, config: RunConfig, tokenizer: Any) -> Prepared:
        t, cache = config.task, config.paths.cache_folder
        assert t.max_length and t.heldout_rows
        general = general_text(config)
        if t.data == "hub":
            abstracts = hub.pubmed()
            held_out = list(itertools.islice(abstracts, t.heldout_rows))
            documents = list(itertools.islice(abstracts, t.train_rows))
            benchmarks = published()
        else:
            pubmedqa = corpora.yes_no(cache, "pubmedqa")
            held_out = [abstract for abstract, _ in pubmedqa[: t.heldout_rows]]
            documents = corpora.shuffled(
                [*(a for a, _ in corpora.yes_no(cache, "bioasq")), *corpora.medmcqa_explanations(cache)], "biomed"
            )
            mmlu = questions.some(corpora.mmlu(cache, "test", corpora.MEDICAL_SUBJECTS), t.questions, "bio_mmlu")
            examples = corpora.mmlu(cache, "dev", corpora.MEDICAL_SUBJECTS)
            benchmarks = [
                questions.abstracts("pubmedqa_yesno", questions.some(pubmedqa, t.questions, "pubmedqa")),
                questions.exam("medqa_subset", questions.some(corpora.medqa(cache), t.questions, "medqa")),
                questions.mmlu("bio_mmlu_subset", mmlu, examples, 5),
            ]
        if t.train_file:
            documents = userfile.documents(t.train_file)
        asked = [q.prompt for b in benchmarks for q in b.questions]
        documents, found = overlap.filtered(
            self.name, documents, str, [*held_out, *general, *asked], t.drop_overlap, t.train_rows
        )
        vocabulary = reading.keywords(documents, general)
        read = [reading.comprehension(d, config.seed, DOMAIN, vocabulary=vocabulary) for d in documents]
        notes = {
            "reading": reading.VERSION,
            "questions": questions.VERSION,
            "scorers": SCORERS,
            "overlap": found,
            "sources": origins(config, "benchmarks", "llamafactory"),
        }
        return on_text(config, tokenizer, read, held_out, general, benchmarks, asked, notes)

    def evaluate(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        metrics = super().evaluate(model, tokenizer, prepared)
        if all(name in metrics for name in AVERAGED):
            metrics["biomed_avg"] = sum(metrics[name] for name in AVERAGED) / len(AVERAGED)
        return metrics

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        if benchmark.name not in ("pubmedqa", "usmle", "rct"):
            return super().score(benchmark, answers, tokenizer)
        chosen = chosen_per_token(benchmark, answers, tokenizer)
        right = scorers.accuracy(chosen, [q.gold for q in benchmark.questions])
        return {benchmark.name: 100 * right, f"{benchmark.name}_lm_eval": 100 * answers.lm_eval}


SCORERS = {"per_token_choice": scorers.VERSIONS["per_token_choice"]}


def published() -> list[Benchmark]:
    """The four benchmarks of Table 6. RCT's micro F1 is its accuracy: each sentence has one label."""
    subjects = [q for q in hub.mmlu("test") if q.subject in corpora.MEDICAL_SUBJECTS]
    return [
        Benchmark("pubmedqa", hub.medicine("PubMedQA")),
        Benchmark("usmle", hub.medicine("USMLE")),
        questions.mmlu("bio_mmlu", subjects, hub.mmlu("dev"), 5),
        Benchmark("rct", hub.medicine("RCT")),
    ]


TASK = BiomedTask()
