"""Tokenizers of the three kinds that the project's models have."""

import json
from functools import cache as once
from pathlib import Path

from experiments.data import corpora
from experiments.spec.run_config import Paths
from experiments.train import base_models, scratch

CACHE: Path = Paths(results="results").cache_folder


def byte_level():
    """The tokenizer of `tiny`: one token per byte, and `<s>` in front."""
    return scratch.byte_tokenizer()


@once
def gpt_style():
    """SmolLM2's byte-level BPE: no token in front; the end token pads."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_models.smollm2(CACHE))


@once
def llama_style():
    """A tokenizer of LLaMA's kind: SentencePiece BPE with a space in front, `<s>`, and bytes for unknown characters."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = spaces, pre_tokenizers.Split("▁", "merged_with_next")
    # The texts have no line ends, so line ends are unknown characters to the tokenizer.
    texts = (" ".join(row["output"].split()) for row in corpora.alpaca(CACHE))
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=2000, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = {"byte_level": byte_level, "gpt_style": gpt_style, "llama_style": llama_style}
