"""Real tokenizers of the three kinds that models here have."""

from functools import cache as once
from pathlib import Path

from experiments.data import catalogue, sources
from experiments.spec.run_config import Paths
from experiments.train import base_models

CACHE: Path = Paths(results="results").cache_folder
# Only these tests need this package.
catalogue.SOURCES["llama-tokenizer"] = catalogue.Source(
    "mistral-common",
    "1.13.1",
    "wheel",
    "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
    6_589_302,
    "mistral_common/data",
    ("tokenizer.model.v1",),
    "a LLaMA-style SentencePiece model of 32,000 pieces",
    "Apache-2.0",
    "Jiang et al. 2023, arXiv 2310.06825",
)


def byte_level():
    """One token a byte, with <s> in front: that of `tiny`."""
    return base_models.tiny_tokenizer()


@once
def gpt_style():
    """SmolLM2's byte-level BPE: nothing in front, and it pads with its end token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_models.smollm2(CACHE))


@once
def llama_style():
    """A LLaMA-style SentencePiece BPE of 32,000 pieces, rebuilt from its model file."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import sentencepiece_model_pb2_new as spm

    model = spm.ModelProto()
    model.ParseFromString(sources.fetch("llama-tokenizer", CACHE)["tokenizer.model.v1"].read_bytes())
    vocabulary = {piece.piece: i for i, piece in enumerate(model.pieces)}
    merges = []
    for piece in model.pieces:
        halves = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
        known = [(a, b) for a, b in halves if a in vocabulary and b in vocabulary]
        merges += [(piece.score, pair) for pair in sorted(known, key=lambda p: (vocabulary[p[0]], vocabulary[p[1]]))]
    merges.sort(key=lambda merge: -merge[0])
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [pair for _, pair in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = {"byte_level": byte_level, "gpt_style": gpt_style, "llama_style": llama_style}
