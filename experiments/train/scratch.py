"""LLaMA models with random weights, which the seed of the run draws, and their tokenizers.

`llama-250m` and `llama-1.3b` are the models of the paper, `llama-60m` to `llama-1b` those of GaLore, with T5's
tokenizer from the hub; its pieces end below 32,000, and above are markers that no text has. The others are small enough
for two CPU cores. `llama-7m` and `llama-13m` memorise UUIDs; they read bytes. `llama-640k`, `llama-3m` and `llama-10m`
learn a language. Their vocabularies of 1,024 and 4,096 pieces are learned from their training text: with 32,000 pieces
nearly all of their weights would be embeddings of pieces that hardly ever occur.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError
from ..spec import shapes

MEMORISERS = ("llama-7m", "llama-13m")
READERS = ("llama-640k", "llama-3m", "llama-10m")
PAPER = ("llama-250m", "llama-1.3b")
GALORE = ("llama-60m", "llama-130m", "llama-350m", "llama-1b")
NAMES = (*MEMORISERS, *READERS, *PAPER, *GALORE)
T5 = "google-t5/t5-base"
TOKENIZER_VERSION = 2  # raise it when the text or a setting changes from which a tokenizer is learned, or its file


def llama(shape: shapes.Llama, seed: int, *, bos: int | None, eos: int, pad: int, spread: float = 0.02) -> Any:
    """A LLaMA with random weights of standard deviation `spread`; the same seed gives the same weights everywhere."""
    import torch
    from transformers import LlamaForCausalLM

    config = shape.config(initializer_range=spread, bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def network(name: str, tokenizer: Any, seed: int) -> Any:
    """The model `name`, one of `NAMES`, with weights drawn from `seed`, for `tokenizer_of(name)`."""
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    shape = shapes.NAMED[name]
    spread = head_spread(shape) if name in MEMORISERS else 0.02
    return llama(shape, seed, spread=spread, **ids)


def head_spread(shape: shapes.Llama) -> float:
    """The standard deviation of the weights of a model whose head is never trained, instead of the usual 0.02.

    A model that memorises UUIDs is never pretrained, and adapters do not change its head. After the final RMSNorm, a
    head with standard deviation 0.02 could not give any token a probability above a few percent, whatever an adapter
    learned.
    """
    return float(shape.hidden**-0.5)


def tokenizer_of(name: str, cache: Path) -> Any:
    """The tokenizer of the model `name`, one of `NAMES`.

    Raises:
        ConfigError: T5's tokenizer cannot be loaded.
    """
    if name in MEMORISERS:
        return byte_tokenizer()
    return t5_tokenizer() if name in (*PAPER, *GALORE) else learned_tokenizer(shapes.NAMED[name].vocabulary, cache)


def byte_tokenizer() -> Any:
    """One token for each byte, without loss; the ids 0 to 3 are <s>, </s>, <pad> and <unk>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def t5_tokenizer() -> Any:
    """T5's 32,100 pieces, from the hub: the tokenizer of the paper's pretraining.

    Raises:
        ConfigError: The hub or its copy on this machine does not give the tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(T5)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the tokenizer {T5} cannot be loaded; fetch it where there is a network "
            f"(python scripts/prepare_data.py --paper {T5}); docs/models-and-data.md ({reason})"
        ) from error


def learned_tokenizer(pieces: int, cache: Path) -> Any:
    """The tokenizer of a small model: byte-level BPE pieces, learned from the packaged text and kept in the cache."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    path = cache / "models" / f"tokenizer-{pieces}-v{TOKENIZER_VERSION}.json"
    kept = files.read_summed(path)
    if kept is None:
        if path.is_file():
            print(f"warning: {path} is damaged; the tokenizer is learned again", file=sys.stderr)
        kept = json.loads(learn_tokenizer(pieces, cache).to_str())
        try:
            files.write_summed(path, kept)
        except OSError as error:
            print(f"warning: the tokenizer is not kept in {path.parent}: {error.strerror}", file=sys.stderr)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(kept)), **special)


def learn_tokenizer(pieces: int, cache: Path) -> Any:
    """Learn a tokenizer of so many pieces; the same text gives the same pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from ..data.corpora import pretraining_text

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=["<s>", "</s>", "<pad>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pretraining_text(cache), trainer)
    return tokenizer
