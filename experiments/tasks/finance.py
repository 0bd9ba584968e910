"""Continual pretraining on finance (section 3.2, Tables 1 and 7).

At paper scale: financial news in reading-comprehension form; ConvFinQA, FiQA SA, Headline, NER and FPB. None of these
is in a package, so from packages the news are Reuters stories of 1987 with their topics as questions, and what is
measured has names of its own: topic classification on R8, economic subjects of MMLU, perplexity on held-out stories.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..data import corpora, hub, overlap, questions, reading, userfile
from ..data.questions import Benchmark, Choice
from ..measure import scorers
from ..measure.evaluation import Answers
from ..spec.run_config import RunConfig
from .base import Prepared
from .finetuning import FineTuning, chosen_per_token, general_text, on_text, origins

DOMAIN = "finance"
AVERAGED = ("convfinqa", "fiqa_sa", "headline", "ner", "fpb")
OPEN_TOKENS = 64
TOPIC_QUESTION = "What is the topic of this story?"
TOPICS = {
    "acq": "mergers and acquisitions",
    "crude": "crude oil",
    "earn": "earnings",
    "grain": "grain",
    "interest": "interest rates",
    "money-fx": "foreign exchange",
    "ship": "shipping",
    "trade": "trade",
}
STORY_CHARACTERS = 1200  # a longer story is cut in the question, so that every story leaves room for it


class FinanceTask(FineTuning):
    name = "finance"
    version = 1
    headline = "heldout_perplexity"
    paper_model = "LLaMA-2 7B"

    def prepare(self, config: RunConfig, tokenizer: Any) -> Prepared:
        t, cache = config.task, config.paths.cache_folder
        assert t.max_length and t.heldout_rows
        general = general_text(config)
        if t.data == "hub":
            news = hub.financial_news()
            held_out = [text for _, text in itertools.islice(news, t.heldout_rows)]
            stories = [(title, text) for title, text in itertools.islice(news, t.train_rows)]
            benchmarks = published()
        else:
            stories = corpora.reuters(cache, "r52-train")
            held_out = [text for _, text in corpora.reuters(cache, "r52-test")[: t.heldout_rows]]
            mmlu = questions.some(corpora.mmlu(cache, "test", corpora.ECONOMIC_SUBJECTS), t.questions, "econ_mmlu")
            benchmarks = [
                Benchmark(
                    "reuters_topic", questions.some(topics(corpora.reuters(cache, "r8-test")), t.questions, "r8")
                ),
                questions.mmlu("econ_mmlu_subset", mmlu, corpora.mmlu(cache, "dev", corpora.ECONOMIC_SUBJECTS), 5),
            ]
        if t.train_file:
            stories = [("", text) for text in userfile.documents(t.train_file)]
        asked = [q.prompt for b in benchmarks for q in b.questions]
        stories, found = overlap.filtered(
            self.name, stories, lambda story: story[1], [*held_out, *general, *asked], t.drop_overlap, t.train_rows
        )
        vocabulary = reading.keywords([text for _, text in stories], general)
        read = [self.read(heading, text, config, vocabulary) for heading, text in stories]
        notes = {
            "reading": reading.VERSION,
            "questions": questions.VERSION,
            "scorers": SCORERS,
            "overlap": found,
            "sources": origins(config, "reuters", "benchmarks", "llamafactory"),
        }
        return on_text(config, tokenizer, read, held_out, general, benchmarks, asked, notes)

    def read(self, heading: str, text: str, config: RunConfig, vocabulary: frozenset[str]) -> str:
        """A story in reading-comprehension form; a heading from packages is its topic, one from the hub its title."""
        if config.task.data == "hub" or not heading:
            return reading.comprehension(text, config.seed, DOMAIN, title=heading or None, vocabulary=vocabulary)
        own = {TOPIC_QUESTION: TOPICS.get(heading, heading)}
        return reading.comprehension(text, config.seed, DOMAIN, vocabulary=vocabulary, own_questions=own)

    def evaluate(self, model: Any, tokenizer: Any, prepared: Prepared) -> dict[str, float]:
        metrics = super().evaluate(model, tokenizer, prepared)
        if all(name in metrics for name in AVERAGED):
            metrics["finance_avg"] = sum(metrics[name] for name in AVERAGED) / len(AVERAGED)
        return metrics

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        name, asked = benchmark.name, benchmark.questions
        if answers.texts:
            gold = [q.answer for q in asked]
            if name == "ner":
                value = scorers.entity_f1(answers.texts, gold)
            else:
                value = scorers.accuracy(list(map(scorers.convfinqa_right, answers.texts, gold)), [True] * len(gold))
            return {name: 100 * value, f"{name}_lm_eval": 100 * answers.lm_eval}
        labels = [q.gold for q in asked]
        if name == "reuters_topic":
            f1 = scorers.weighted_f1(answers.chosen, labels)
            return {name: 100 * answers.lm_eval, "reuters_topic_f1": 100 * f1}
        if name not in AVERAGED:
            return super().score(benchmark, answers, tokenizer)
        chosen = chosen_per_token(benchmark, answers, tokenizer)
        if name == "headline":
            value = scorers.headline_f1(chosen, labels, [q.kind for q in asked])
        else:
            value = scorers.weighted_f1(chosen, labels)
        return {name: 100 * value, f"{name}_lm_eval": 100 * answers.lm_eval}


SCORERS = {n: scorers.VERSIONS[n] for n in ("weighted_f1", "headline_f1", "entity_f1", "convfinqa", "per_token_choice")}


def topics(stories: list[tuple[str, str]]) -> list[Choice]:
    """R8 stories with the question that training stories carry; the answers are the eight topics in words."""
    names = tuple(TOPICS.values())
    return [
        Choice(f"{text[:STORY_CHARACTERS]}\n\nQuestion: {TOPIC_QUESTION}\nAnswer:", names, list(TOPICS).index(topic))
        for topic, text in stories
    ]


def published() -> list[Benchmark]:
    """The five benchmarks of Table 7, in AdaptLLM's filled-in prompts. A blank line ends a generated answer."""
    return [
        Benchmark("convfinqa", hub.finance_open("ConvFinQA"), ("\n",), OPEN_TOKENS, questions.ANY_EXTRACT),
        Benchmark("fiqa_sa", hub.finance("FiQA_SA")),
        Benchmark("headline", hub.finance("Headline")),
        Benchmark("ner", hub.finance_open("NER"), ("\n",), OPEN_TOKENS, questions.ANY_EXTRACT),
        Benchmark("fpb", hub.finance("FPB")),
    ]


TASK = FinanceTask()
