"""Tiny models of many families, as folders that transformers has written, each with a real tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {"vocab_size": 260, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 128}
MAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 16}
EXPERTS = {"num_experts": 4, "expert_layer_period": 2, "expert_layer_offset": 1}

# Family -> the configuration's class, and its settings.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SIZES, **GROUPED}),
    "qwen3": ("Qwen3Config", {**SIZES, **GROUPED, "head_dim": 32}),
    "gemma2": ("Gemma2Config", {**SIZES, **GROUPED, "head_dim": 32}),
    "phi3": ("Phi3Config", {**SIZES, **GROUPED}),
    "mixtral": ("MixtralConfig", {**SIZES, **GROUPED, "num_local_experts": 4}),
    "gpt_neox": ("GPTNeoXConfig", {**SIZES, "intermediate_size": 256}),
    "gpt2": ("GPT2Config", {"vocab_size": 260, "n_embd": 64, "n_layer": 2, "n_head": 4}),
    "falcon": ("FalconConfig", SIZES),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "mamba": ("MambaConfig", {"vocab_size": 260, "hidden_size": 64, "num_hidden_layers": 2, "time_step_rank": 16}),
    "jamba": ("JambaConfig", {**SIZES, **GROUPED, **MAMBA, **EXPERTS}),
}

# Family -> kind of linear layer -> how many the model has, and (in_features, out_features): written by hand.
LAYERS = {
    "qwen3": {
        "q_proj": (2, 64, 128),
        "k_proj": (2, 64, 64),
        "v_proj": (2, 64, 64),
        "o_proj": (2, 128, 64),
        "gate_proj": (2, 64, 128),
        "up_proj": (2, 64, 128),
        "down_proj": (2, 128, 64),
    },
    "phi3": {
        "o_proj": (2, 64, 64),
        "qkv_proj": (2, 64, 128),
        "gate_up_proj": (2, 64, 256),
        "down_proj": (2, 128, 64),
    },
    "gpt_neox": {
        "query_key_value": (2, 64, 192),
        "dense": (2, 64, 64),
        "dense_h_to_4h": (2, 64, 256),
        "dense_4h_to_h": (2, 256, 64),
    },
}


def write(family: str, folder: Path, change: Callable[[Any], None] = lambda tokenizer: None, **settings: Any) -> Path:
    """Write a model with random weights to `folder`, with the byte tokenizer, which `change` may change."""
    import torch
    import transformers

    from experiments.train.scratch import byte_tokenizer

    name, sizes = FAMILIES[family]
    config = getattr(transformers, name)(**{**sizes, **TOKENS, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(config)
    network.save_pretrained(folder)
    tokenizer = byte_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder
