"""LLaMA models with random weights, for pretraining, and their tokenizers.

`llama-250m` and `llama-1.3b` are the models of the paper, with T5's tokenizer from the hub. `llama-3m` is small enough
for two CPU cores. Its vocabulary of 4,096 pieces is learned from its training text: with 32,000 pieces nearly all of
its weights would be embeddings of pieces that hardly ever occur.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError
from ..spec import shapes

NAMES = ("llama-3m", "llama-250m", "llama-1.3b")
T5 = "google-t5/t5-base"
TOKENIZER_VERSION = 1  # raise the number when the text or a setting changes from which the tokenizer is learned


def llama(shape: shapes.Shape, seed: int, *, bos: int | None, eos: int, pad: int, spread: float = 0.02) -> Any:
    """A LLaMA with random weights of standard deviation `spread`; the same seed gives the same weights everywhere."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        initializer_range=spread,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        tie_word_embeddings=shape.tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def load(name: str, cache: Path, seed: int) -> tuple[Any, Any]:
    """The model `name`, one of `NAMES`, with weights drawn from `seed`, and its tokenizer.

    Raises:
        ConfigError: The tokenizer cannot be loaded.
    """
    tokenizer = small_tokenizer(cache) if name == "llama-3m" else t5_tokenizer()
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return llama(shapes.NAMED[name], seed, **ids), tokenizer


def t5_tokenizer() -> Any:
    """T5's 32,100 pieces, from the hub: the tokenizer of the paper's pretraining."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(T5)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the tokenizer {T5} cannot be loaded: {reason}") from error


def small_tokenizer(cache: Path) -> Any:
    """The tokenizer of `llama-3m`: 4,096 byte-level BPE pieces, learned from the packaged text, kept in the cache."""
    from transformers import PreTrainedTokenizerFast

    path = cache / "models" / f"llama-3m-tokenizer-v{TOKENIZER_VERSION}.json"
    if not path.is_file():
        learned = learn_tokenizer(cache)
        with files.new_file(path) as temporary:
            learned.save(str(temporary))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def learn_tokenizer(cache: Path) -> Any:
    """Learn the tokenizer of `llama-3m`; the same text gives the same pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from ..data.corpora import pretraining_text

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shapes.NAMED["llama-3m"].vocabulary,
        special_tokens=["<s>", "</s>", "<pad>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pretraining_text(cache), trainer)
    return tokenizer
