"""Instruction tuning (section 3.2, Table 1): Tulu v2, measured by MMLU.

At paper scale: the Tulu v2 mixture in open-instruct's role headers, MMLU with no and with five examples. From
packages: Alpaca rows, a fixed subset of MMLU, and bits per byte of held-out answers, which carries the signal where
a small model answers MMLU by chance.
"""

from __future__ import annotations

from typing import Any

from ..data import corpora, hub, overlap, prompts, questions, userfile
from ..data.prompts import Message
from ..data.questions import lettered
from ..spec.run_config import RunConfig
from .base import Prepared
from .finetuning import FineTuning, general_text, on_conversations, origins


class InstructTask(FineTuning):
    name = "instruct"
    version = 1
    headline = "answer_bits_per_byte"
    paper_model = "LLaMA-2 7B"

    def prepare(self, config: RunConfig, tokenizer: Any) -> Prepared:
        t, cache = config.task, config.paths.cache_folder
        assert t.prompt and t.max_length and t.heldout_rows
        on_hub = t.data == "hub"
        rows = hub.tulu() if on_hub else [_alpaca(row) for row in corpora.alpaca(cache)]
        if on_hub:
            rows = corpora.shuffled(rows, "tulu")
        held_out, train = rows[: t.heldout_rows], rows[t.heldout_rows :]
        if t.train_file:
            train = userfile.conversations(t.train_file, t.prompt)

        examples, test = (
            (hub.mmlu("dev"), hub.mmlu("test")) if on_hub else (corpora.mmlu(cache, "dev"), corpora.mmlu(cache, "test"))
        )
        test = questions.some(test, t.questions, "mmlu")
        name = "mmlu" if on_hub and t.questions is None else "mmlu_subset"
        benchmarks = [questions.mmlu(f"{name}_{shots}shot", test, examples, shots) for shots in (0, 5)]
        general = general_text(config)

        measured = [*map(prompts.plain, held_out), *map(lettered, test), *general]
        train, found = overlap.filtered(self.name, train, prompts.plain, measured, t.drop_overlap, t.train_rows)
        notes = {
            "questions": questions.VERSION,
            "overlap": found,
            "sources": origins(config, "llamafactory", "benchmarks"),
        }
        asked = [q.text for q in test]
        return on_conversations(config, tokenizer, train, held_out, general, benchmarks, asked, notes)


def _alpaca(row: dict[str, str]) -> list[Message]:
    return prompts.pair(row["instruction"], row["output"], row["input"])


TASK = InstructTask()
