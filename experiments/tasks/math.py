"""Mathematics (section 3.2, Tables 1 and 4): MetaMathQA, measured by GSM8K and MATH.

At paper scale: MetaMathQA in Alpaca's form, exact match of the number behind `The answer is:` over both test sets.
From packages, which hold no training splits: a fixed split of the GSM8K and MATH test rows, joined by generated word
problems. MATH-500 is held out whole; of GSM8K only questions are held out that no template paraphrases. Their metrics
have names of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import corpora, hub, overlap, prompts, questions, userfile, wordproblems
from ..data.corpora import Problem
from ..data.prompts import Message
from ..data.questions import Benchmark
from ..measure import scorers
from ..measure.evaluation import Answers
from ..spec.run_config import RunConfig
from .base import Prepared
from .finetuning import FineTuning, general_text, on_conversations, origins

GSM8K_HELD_OUT = 200
GENERATED_EACH = 10  # word problems drawn from each template


class MathTask(FineTuning):
    name = "math"
    version = 1
    headline = "answer_bits_per_byte"
    paper_model = "LLaMA-2 7B"

    def prepare(self, config: RunConfig, tokenizer: Any) -> Prepared:
        t, cache = config.task, config.paths.cache_folder
        assert t.prompt and t.max_length and t.heldout_rows and t.new_tokens
        if t.data == "hub":
            rows = corpora.shuffled(hub.metamath(), "metamath")
            held_out, train = rows[: t.heldout_rows], rows[t.heldout_rows :]
            grade_school, competition, names = hub.gsm8k(), hub.competition_math(), ("gsm8k", "math")
        else:
            rest, grade_school, competition = split(cache)
            train = [worked(problem) for problem in rest]
            mixed = corpora.shuffled([*grade_school, *competition], "math-heldout")
            held_out = [worked(problem) for problem in mixed[: t.heldout_rows]]
            names = ("gsm8k_heldout", "math500")
        if t.questions is not None:
            names = (names[0].removesuffix("_heldout") + "_subset", names[1] + "_subset")
            grade_school = corpora.shuffled(grade_school, "gsm8k")[: t.questions]
            competition = corpora.shuffled(competition, "math")[: t.questions]
        if t.train_file:
            train = userfile.conversations(t.train_file, t.prompt)
        benchmarks = [
            questions.problems(names[0], grade_school, t.prompt, questions.GSM8K_EXTRACT, t.new_tokens),
            questions.problems(names[1], competition, t.prompt, questions.MARKED_EXTRACT, t.new_tokens),
        ]
        general = general_text(config)

        asked = [p.question for p in (*grade_school, *competition)]
        solved = [prompts.plain(worked(p)) for p in (*grade_school, *competition)]
        measured = [*map(prompts.plain, held_out), *solved, *general]
        train, found = overlap.filtered(self.name, train, prompts.plain, measured, t.drop_overlap, t.train_rows)
        notes = {
            "questions": questions.VERSION,
            "scorers": {"metamath": scorers.VERSIONS["metamath"]},
            "overlap": found,
            "sources": origins(config, "benchmarks", "gsm-symbolic", "llamafactory"),
        }
        return on_conversations(config, tokenizer, train, held_out, general, benchmarks, asked, notes)

    def score(self, benchmark: Benchmark, answers: Answers, tokenizer: Any) -> dict[str, float]:
        """MetaMath's rule, and beside it lm-eval's exact match on the same generations."""
        right = scorers.gsm8k_right if benchmark.name.startswith("gsm8k") else scorers.math_right
        hits = [right(text, q.answer) for text, q in zip(answers.texts, benchmark.questions, strict=True)]
        return {benchmark.name: 100 * sum(hits) / len(hits), f"{benchmark.name}_lm_eval": 100 * answers.lm_eval}


def split(cache: Path) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """(may train, GSM8K held out, MATH-500): fixed, whatever the seed of a run."""
    generated = wordproblems.generate(cache, GENERATED_EACH)
    templates: dict[str, set[tuple[str, ...]]] = {}
    for template, problem in generated:
        templates.setdefault(template, set()).update(wordproblems.trigrams(problem.question))
    rows = corpora.shuffled(corpora.gsm8k(cache), "gsm8k-split")
    free = [p for p in rows if not wordproblems.is_paraphrased(p.question, templates.values())]
    held_out = free[:GSM8K_HELD_OUT]
    taken = {problem.question for problem in held_out}
    competition, math500 = corpora.competition_math(cache)
    train = [p for p in rows if p.question not in taken] + competition + [p for _, p in generated]
    return corpora.shuffled(train, "math-train"), held_out, math500


def worked(problem: Problem) -> list[Message]:
    """A problem as MetaMath writes it: the solution, then `The answer is: ...`."""
    answer = " ".join(problem.answer.split())
    return prompts.pair(problem.question, f"{problem.solution}\n{scorers.ANSWER_MARK} {answer}")


TASK = MathTask()
