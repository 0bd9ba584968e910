"""Instruction tuning (section 3.2, Table 1): Tulu v2, measured by MMLU.

At paper scale the task trains on the Tulu v2 mixture with open-instruct's role headers, and measures MMLU without
examples and with five. From packages it trains on Alpaca rows and measures a fixed subset of MMLU. A small model
answers MMLU by chance; the bits per byte of held-out answers tell methods apart there.
"""

from __future__ import annotations

from ..data import corpora, hub, prompts, questions
from ..data.questions import lettered
from ..spec.run_config import RunConfig
from .finetuning import GENERAL_PERPLEXITY, AnswerTask, Material, answer_bits_per_byte, choice

OPTIONS = 4  # of a question of MMLU


class InstructTask(AnswerTask):
    """Instruction tuning."""

    name = "instruct"
    version = 3
    headline = "mmlu_5shot"
    packages = ("llamafactory", "benchmarks")
    data_sets = (hub.TULU, hub.MMLU)
    metrics = (
        choice("mmlu_0shot", "MMLU 0-shot", OPTIONS, questions=14_042),
        choice("mmlu_5shot", "MMLU 5-shot", OPTIONS, questions=14_042),
        answer_bits_per_byte(stands_for="mmlu_5shot"),
        choice("mmlu_subset_0shot", "MMLU subset 0-shot", OPTIONS, stands_for="mmlu_0shot"),
        choice("mmlu_subset_5shot", "MMLU subset 5-shot", OPTIONS, stands_for="mmlu_5shot"),
        GENERAL_PERPLEXITY,
    )

    def material(self, config: RunConfig) -> Material:
        t, cache = config.task, config.paths.cache_folder
        if t.data == "hub":
            conversations = corpora.shuffled(hub.tulu(t.data_dir), "tulu")
            examples, test = hub.mmlu("dev", t.data_dir), hub.mmlu("test", t.data_dir)
        else:
            rows = corpora.alpaca(cache)
            conversations = [prompts.pair(row["instruction"], row["output"], row["input"]) for row in rows]
            examples, test = corpora.mmlu(cache, "dev"), corpora.mmlu(cache, "test")
        name = "mmlu" if t.data == "hub" and t.questions is None else "mmlu_subset"
        test = questions.some(test, t.questions, "mmlu")
        held_out = conversations[: t.heldout_rows]
        return Material(
            train=conversations[t.heldout_rows :],
            held_out=held_out,
            benchmarks=[questions.mmlu(f"{name}_{shots}shot", test, examples, shots) for shots in (0, 5)],
            question_texts=[question.text for question in test],
            benchmark_texts=[*map(lettered, test)],
        )


TASK = InstructTask()
