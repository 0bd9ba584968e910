"""Continual pretraining on finance (section 3.2, Tables 1 and 7).

At paper scale the task trains on financial news in reading-comprehension form, and measures ConvFinQA, FiQA SA,
Headline, NER and FPB. No package holds any of these. From packages the task trains on Reuters stories of 1987, with
their topics as questions, and measures under names of its own: the topics of R8, economic subjects of MMLU, and the
perplexity of held-out stories.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..data import corpora, hub, questions
from ..data.questions import Benchmark, ChoiceQuestion
from ..measure import scorers
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

ANSWER_TOKENS = 100  # at most so many tokens are generated for an answer, as in AdaptLLM's evaluation
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
STORY_CHARACTERS = 1200  # a longer story is cut in the question, so that the question fits into the model's context


class FinanceTask(TextTask):
    """Continual pretraining on finance."""

    name = "finance"
    version = 2
    headline = "finance_avg"
    packages = ("reuters", "benchmarks", "llamafactory")
    data_sets = (hub.FINANCIAL_NEWS, hub.FINANCE_TASKS)
    scorers = ("weighted_f1", "headline_f1", "entity_f1", "convfinqa", "per_token_choice")
    domain = "finance"
    averaged = ("convfinqa", "fiqa_sa", "headline", "ner", "fpb")
    metrics = (
        Metric("convfinqa", "ConvFinQA"),
        Metric("fiqa_sa", "FiQA SA"),
        Metric("headline", "Headline"),
        Metric("ner", "NER"),
        Metric("fpb", "FPB"),
        Metric("finance_avg", "Finance average"),
        heldout_perplexity(stands_for="finance_avg"),
        trained_perplexity(stands_for="finance_avg"),
        choice("reuters_topic", "Reuters topic", len(TOPICS), stands_for="finance_avg"),
        choice("econ_mmlu_subset", "economic MMLU subset", 4),
        GENERAL_PERPLEXITY,
    )

    def material(self, config: RunConfig) -> Material:
        t, cache = config.task, config.paths.cache_folder
        if t.data == "hub":
            news = hub.financial_news(t.data_dir)
            held_out = [text for _, text in itertools.islice(news, t.heldout_rows)]
            train = (Document(text, title) for title, text in itertools.islice(news, t.train_rows))
            return Material.of_texts(train, held_out, benchmarks_of_table7(t.data_dir))
        stories = corpora.reuters(cache, "r52-train")
        held_out = [text for _, text in corpora.reuters(cache, "r52-test")[: t.heldout_rows]]
        train = (Document(text, questions={TOPIC_QUESTION: TOPICS.get(topic, topic)}) for topic, text in stories)
        r8 = questions.some(topic_questions(corpora.reuters(cache, "r8-test")), t.questions, "r8")
        mmlu = questions.some(corpora.mmlu(cache, "test", corpora.ECONOMIC_SUBJECTS), t.questions, "econ_mmlu")
        examples = corpora.mmlu(cache, "dev", corpora.ECONOMIC_SUBJECTS)
        benchmarks = [Benchmark("reuters_topic", r8), questions.mmlu("econ_mmlu_subset", mmlu, examples, 5)]
        return Material.of_texts(train, held_out, benchmarks)

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        name, lm_eval = benchmark.name, 100 * answers.lm_eval
        if answers.texts:
            gold = [question.answer for question in benchmark.questions]
            score = scorers.entity_f1 if name == "ner" else scorers.convfinqa_accuracy
            return {name: 100 * score(answers.texts, gold), f"{name}_lm_eval": lm_eval}
        labels = [question.gold for question in benchmark.questions]
        if name == "reuters_topic":
            return {name: lm_eval, "reuters_topic_f1": 100 * scorers.weighted_f1(answers.chosen, labels)}
        if name not in self.averaged:
            return super().score(benchmark, answers, tokenizer)
        chosen = likeliest_per_token(benchmark, answers, tokenizer)
        if name == "headline":
            value = scorers.headline_f1(chosen, labels, [question.kind for question in benchmark.questions])
        else:
            value = scorers.weighted_f1(chosen, labels)
        return {name: 100 * value, f"{name}_lm_eval": lm_eval}


def topic_questions(stories: list[tuple[str, str]]) -> list[ChoiceQuestion]:
    """R8 stories with the question that training stories carry; the choices are the eight topics in words."""
    names = tuple(TOPICS.values())
    return [
        ChoiceQuestion(
            f"{text[:STORY_CHARACTERS]}\n\nQuestion: {TOPIC_QUESTION}\nAnswer:", names, list(TOPICS).index(topic)
        )
        for topic, text in stories
    ]


def benchmarks_of_table7(copies: str | None) -> list[Benchmark]:
    """The five benchmarks of Table 7, in AdaptLLM's filled-in prompts.

    A generated answer ends at its first line end, at the end token, or after `ANSWER_TOKENS` tokens.
    """
    return [
        Benchmark("convfinqa", hub.finance_open("ConvFinQA", copies), ("\n",), ANSWER_TOKENS, questions.ANY_EXTRACT),
        Benchmark("fiqa_sa", hub.finance("FiQA_SA", copies)),
        Benchmark("headline", hub.finance("Headline", copies)),
        Benchmark("ner", hub.finance_open("NER", copies), ("\n",), ANSWER_TOKENS, questions.ANY_EXTRACT),
        Benchmark("fpb", hub.finance("FPB", copies)),
    ]


TASK = FinanceTask()
