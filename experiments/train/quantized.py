"""Base weights in few bits: the projections of every layer, by bitsandbytes on a CPU or a GPU alike.

`nf4` keeps 4 bits a weight and a float32 scale for each 64; `int8` keeps 8 bits and a scale for each row. Embeddings,
norms and the head stay in the number format of the run, which is also what the projections compute in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def options(kind: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What `from_pretrained` needs to load a model quantized on `device`; nothing for `none`."""
    if kind == "none":
        return {}
    from transformers import BitsAndBytesConfig

    if kind == "nf4":
        how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        how = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": how, "device_map": {"": device}}


def again(network: Any, options: dict[str, Any]) -> Any:
    """A model that is in memory, loaded once more with these `options`."""
    loaded = type(network).from_pretrained(
        None, config=network.config, state_dict=network.state_dict(), dtype=network.dtype, **options
    )
    loaded.name_or_path = network.name_or_path
    return loaded


def keep_trainable(network: nn.Module) -> nn.Module:
    """Stop bitsandbytes from packing 4-bit weights for AVX512 when it first computes outside training.

    It would do so for good, round the scales to bf16, and let no gradient through any more: a run measures its model
    before and while it trains.
    """
    layer: Any
    for layer in network.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return network


def dequantized(network: Any) -> Any:
    """The same model with plain weights, in its own dtype: every stored value, to the bit."""
    return network.dequantize() if getattr(network, "is_quantized", False) else network
