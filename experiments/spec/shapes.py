"""The shapes of models: the sizes and the linear layers of a model, known before its weights are loaded.

The shapes of the models that this project names stand here. The shapes of any other model come from its own
config.json, from which transformers builds it (`skeletons`). The shape of a folder is kept in the cache, so that the
next process knows it without torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import files

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FORMAT = 2  # part of the names of the cache's files: raise it when a `Shape` has other entries


@dataclass(frozen=True)
class Shape:
    """What is known of a model without its weights.

    Attributes:
        hidden: The width of the model.
        vocabulary: The rows of its embedding.
        positions: The tokens of the longest sequence that the model takes; None where its config has no limit.
        parameters: Parameters of the whole model; shared parameters count once.
        linears: The name of each linear layer in the model -> (in_features, out_features).
        head: The name of the linear layer that gives the logits; None where the model has no such layer.
        uncalled: The linear layers whose weights the model reads without calling the layer. An adapter on such a layer
            would have no effect.
    """

    hidden: int
    vocabulary: int
    positions: int | None
    parameters: int
    linears: dict[str, tuple[int, int]]
    head: str | None
    uncalled: tuple[str, ...] = ()


def size_name(size: tuple[int, int]) -> str:
    """(in_features, out_features) as text, such as `64 x 192`."""
    return f"{size[0]} x {size[1]}"


def lora_parameters(rank: int, sizes: Iterable[tuple[int, int]]) -> int:
    """The parameters of a LoRA of this rank on layers of these sizes, (in_features, out_features)."""
    return rank * sum(k + d for k, d in sizes)


@dataclass(frozen=True)
class Llama:
    """Sizes of a LLaMA; `heads` query heads share `kv_heads` key-value heads."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False
    positions: int = 2048

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

    @property
    def shape(self) -> Shape:
        """The shape of the model, with the names of its layers in transformers."""
        blocks = {name: "self_attn" if name in PROJECTIONS[:4] else "mlp" for name in PROJECTIONS}
        linears = {
            f"model.layers.{i}.{blocks[name]}.{name}": size
            for i in range(self.layers)
            for name, size in self.linears().items()
        }
        linears["lm_head"] = (self.hidden, self.vocabulary)
        return Shape(self.hidden, self.vocabulary, self.positions, self.parameters, linears, "lm_head")

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes under their names in the config.json of a model."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
        }

    def config(self, **settings: Any) -> Any:
        """The configuration of transformers with these sizes and further `settings`."""
        from transformers import LlamaConfig

        return LlamaConfig(
            **self.sizes,
            max_position_embeddings=self.positions,
            tie_word_embeddings=self.tied,
            **settings,
        )


NAMED = {
    "tiny": Llama(256, 688, 2, 4, 4, 260),
    "llama-7m": Llama(512, 1376, 2, 4, 4, 260),
    "llama-13m": Llama(512, 1376, 4, 4, 4, 260),
    "llama-640k": Llama(96, 256, 4, 2, 2, 1024),
    "llama-3m": Llama(192, 512, 4, 6, 6, 4096),
    "llama-10m": Llama(512, 1376, 2, 4, 4, 4096),
    "base-10m": Llama(512, 1376, 2, 4, 4, 4096),
    "smollm2-135m": Llama(576, 1536, 30, 9, 3, 49152, tied=True, positions=8192),
    "llama-60m": Llama(512, 1376, 8, 8, 8, 32000),
    "llama-130m": Llama(768, 2048, 12, 12, 12, 32000),
    "llama-350m": Llama(1024, 2736, 24, 16, 16, 32000),
    "llama-1b": Llama(2048, 5461, 24, 32, 32, 32000),
    "llama-250m": Llama(768, 2560, 24, 16, 16, 32100),
    "llama-1.3b": Llama(2048, 5461, 24, 32, 32, 32100),
    "meta-llama/Llama-2-7b-hf": Llama(4096, 11008, 32, 32, 32, 32000, positions=4096),
    "meta-llama/Llama-2-13b-hf": Llama(5120, 13824, 40, 40, 40, 32000, positions=4096),
    "meta-llama/Llama-3.1-8B": Llama(4096, 14336, 32, 32, 8, 128256, positions=131072),
}

_built: dict[str, Shape] = {}  # what this process has built: hash of a config.json, or id on the hub -> shape


def at_hand(model: str, cache: Path) -> Shape | None:
    """The shape of a model if it is known without torch and without a network; else None."""
    if model in NAMED:
        return NAMED[model].shape
    digest = _digest(model)
    if shape := _built.get(digest or model):
        return shape
    try:
        values = files.read_summed(_file(digest, cache)) if digest else {}
        linears = {str(name): (int(k), int(d)) for name, k, d in values["linears"]}
        return Shape(**(values | {"linears": linears, "uncalled": tuple(values["uncalled"])}))
    except (ValueError, KeyError, TypeError):  # also where nothing is kept
        return None


def keep(shape: Shape, model: str, cache: Path) -> None:
    """Let `at_hand` give the shape of a model: in this process, and for a folder in later processes too."""
    digest = _digest(model)
    _built[digest or model] = shape
    if digest:
        with contextlib.suppress(OSError):  # without the file the next process builds the model again
            linears = [[name, *size] for name, size in shape.linears.items()]  # a list keeps the order of the model
            files.write_summed(_file(digest, cache), asdict(shape) | {"linears": linears})


def _digest(model: str) -> str | None:
    """The hash of a folder's config.json; None where there is no such file."""
    try:
        return hashlib.sha256((Path(model) / "config.json").read_bytes()).hexdigest()[:32]
    except (OSError, ValueError):
        return None


def _file(digest: str, cache: Path) -> Path:
    """Where the shape of a folder is kept. Another version of transformers may build the model in another way."""
    return cache / "shapes" / f"v{FORMAT}-{importlib.metadata.version('transformers')}-{digest}.json"
