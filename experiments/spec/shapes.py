"""The shapes of LLaMA-like models: what can be known about a model before it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaMA-like decoder; `heads` query heads share `kv_heads` key-value heads."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    def linears(self) -> dict[str, tuple[int, int]]:
        """(in_features, out_features) of the seven projections of one layer."""
        kv = self.hidden // self.heads * self.kv_heads
        h, i = self.hidden, self.intermediate
        return dict(zip(PROJECTIONS, [(h, h), (h, kv), (h, kv), (h, h), (h, i), (h, i), (i, h)], strict=True))

    @property
    def parameters(self) -> int:
        """Parameters of the whole model: embeddings, head, projections and norms."""
        layer = sum(k * d for k, d in self.linears().values()) + 2 * self.hidden
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.layers * layer + self.hidden


NAMED = {
    "tiny": Shape(256, 688, 2, 4, 4, 260),
    "llama-7m": Shape(512, 1376, 2, 4, 4, 260),
    "llama-13m": Shape(512, 1376, 4, 4, 4, 260),
    "llama-640k": Shape(96, 256, 4, 2, 2, 1024),
    "llama-3m": Shape(192, 512, 4, 6, 6, 4096),
    "llama-10m": Shape(512, 1376, 2, 4, 4, 4096),
    "base-10m": Shape(512, 1376, 2, 4, 4, 4096),
    "smollm2-135m": Shape(576, 1536, 30, 9, 3, 49152, tied=True),
    "llama-60m": Shape(512, 1376, 8, 8, 8, 32000),
    "llama-130m": Shape(768, 2048, 12, 12, 12, 32000),
    "llama-350m": Shape(1024, 2736, 24, 16, 16, 32000),
    "llama-1b": Shape(2048, 5461, 24, 32, 32, 32000),
    "llama-250m": Shape(768, 2560, 24, 16, 16, 32100),
    "llama-1.3b": Shape(2048, 5461, 24, 32, 32, 32100),
    "meta-llama/Llama-2-7b-hf": Shape(4096, 11008, 32, 32, 32, 32000),
    "meta-llama/Llama-2-13b-hf": Shape(5120, 13824, 40, 40, 40, 32000),
    "meta-llama/Llama-3.1-8B": Shape(4096, 14336, 32, 32, 8, 128256),
}


def of(model: str) -> Shape | None:
    """The shape of a named model or of a folder with a LLaMA-like config.json; None where the shape is not known."""
    if model in NAMED:
        return NAMED[model]
    try:
        config = json.loads((Path(model) / "config.json").read_text())
        heads = config["num_attention_heads"]
        sizes = [config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")]
        sizes += [heads, config.get("num_key_value_heads", heads), config["vocab_size"]]
        if not all(type(size) is int and size > 0 for size in sizes):
            return None
        return replace(Shape(*sizes), tied=bool(config.get("tie_word_embeddings", False)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
