"""Quantized base weights: bitsandbytes stores the projections of every layer in 4 or 8 bits, on a CPU or a GPU.

`nf4` stores 4 bits for each weight and a float32 scale for every 64 weights; `int8` stores 8 bits for each weight and
a scale for every row. Embeddings, norms and the head keep the number format of the run, in which the projections
compute as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def loading_options(kind: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a model quantized on `device`; none if `kind` is `none`."""
    if kind == "none":
        return {}
    from transformers import BitsAndBytesConfig

    if kind == "nf4":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": quantization, "device_map": {"": device}}


def reloaded(network: Any, options: dict[str, Any]) -> Any:
    """A copy of a model in memory, loaded with these `options` of `from_pretrained`."""
    loaded = type(network).from_pretrained(
        None, config=network.config, state_dict=network.state_dict(), dtype=network.dtype, **options
    )
    loaded.name_or_path = network.name_or_path
    return loaded


def keep_trainable(network: nn.Module) -> nn.Module:
    """Stop bitsandbytes from packing 4-bit weights for AVX512 when a model first computes outside training.

    Packing cannot be undone: it rounds the scales to bf16 and lets no gradient through. A run measures its model
    before and during the training.
    """
    layer: Any
    for layer in network.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return network


def dequantized(network: Any) -> Any:
    """The model with plain weights in its own dtype, equal to the stored values to the bit."""
    return network.dequantize() if getattr(network, "is_quantized", False) else network
