"""The paper's methods, metrics and ranks by name, and its numbers as they are in paper.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parent.parent.parent / "results" / "paper" / "paper.json"
LOW, HIGH, PRETRAINING = 8, 256, 128  # the paper's ranks



@dataclass(frozen=True)
class Metric:
    """How a metric is called, and which end of it is good."""

    label: str
    unit: str
    higher_is_better: bool


def _percent(label: str) -> Metric:
    return Metric(label, "%", True)


METRICS = {
    "char_accuracy": _percent("character accuracy"),
    "mmlu_0shot": _percent("MMLU 0-shot"),
    "mmlu_5shot": _percent("MMLU 5-shot"),
    "gsm8k": _percent("GSM8K"),
    "math": _percent("MATH"),
    "pubmedqa": _percent("PubMedQA"),
    "usmle": _percent("USMLE"),
    "bio_mmlu": _percent("BioMMLU"),
    "rct": _percent("RCT"),
    "biomed_avg": _percent("BioMed average"),
    "convfinqa": _percent("ConvFinQA"),
    "fiqa_sa": _percent("FiQA SA"),
    "headline": _percent("Headline"),
    "ner": _percent("NER"),
    "fpb": _percent("FPB"),
    "finance_avg": _percent("Finance average"),
    "perplexity": Metric("perplexity", "", False),
    "answer_bits_per_byte": Metric("bits per byte of held-out answers", "", False),
    "heldout_perplexity": Metric("held-out perplexity", "", False),
    "general_loss": Metric("loss on general text", "", False),
    "mmlu_subset_5shot": _percent("MMLU subset 5-shot"),
    "gsm8k_subset": _percent("GSM8K subset"),
    "pubmedqa_yesno": _percent("PubMedQA yes/no"),
    "medqa_subset": _percent("MedQA subset"),
    "bio_mmlu_subset": _percent("BioMMLU subset"),
    "reuters_topic": _percent("Reuters topic"),
    "econ_mmlu_subset": _percent("economic MMLU subset"),
}
# What smaller scales measure in place of the paper's metrics, under names of their own; the first decides claims.
STAND_INS = {
    "instruct": ("answer_bits_per_byte", "mmlu_subset_5shot"),
    "math": ("answer_bits_per_byte", "gsm8k_subset"),
    "biomed": ("heldout_perplexity",),
    "finance": ("heldout_perplexity", "reuters_topic"),
}
DETAILS = {
    "biomed": ("heldout_perplexity", "pubmedqa_yesno", "medqa_subset", "bio_mmlu_subset", "general_loss"),
    "finance": ("heldout_perplexity", "reuters_topic", "econ_mmlu_subset", "general_loss"),
}


@cache
def published() -> dict[str, Any]:
    """The content of paper.json."""
    return json.loads(PUBLISHED.read_text())
