"""Adapters that the authors' code (kongds/MoRA) saved, converted to the format of this library.

The authors' code is a copy of PEFT 0.9 with a change. It saves a MoRA adapter as a LoRA adapter with two more settings:
`use_mora` and `mora_type`, the number of the operator. The file holds the matrix M of each layer twice, under the names
`lora_A` and `lora_B`. Two more differences: r_hat is rounded to the nearest integer, and `lora_alpha` has no effect.

Legend: q = r_hat.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import operators
from .config import MoraConfig

# Settings with the same name and the same meaning in `MoraConfig`.
SAME = (
    "r",
    "rank_pattern",
    "target_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
)
# Settings that change the model in a way that MoRA does not have, each with its value for "off".
ABSENT = {"use_dora": False, "bias": "none", "layer_replication": None, "megatron_config": None}


def convert_official(folder: str | Path, out: str | Path) -> MoraConfig:
    """Convert an adapter of the authors' code. After `import mora`, `PeftModel.from_pretrained` loads the result.

    Args:
        folder: The folder with the adapter_config.json and the adapter_model.safetensors of the authors' code.
        out: The folder to write. It is created if it does not exist.

    Returns:
        The configuration of the converted adapter.

    Raises:
        ValueError: `folder` holds no complete MoRA adapter of the authors' code, or the adapter has a setting that
            MoRA does not have, or `out` holds an adapter already. Nothing is written.
    """
    folder, out = Path(folder), Path(out)
    config = official_config(_settings(folder / CONFIG_NAME))
    weights = _weights(folder / SAFETENSORS_WEIGHTS_NAME)
    if (out / CONFIG_NAME).exists() or (out / SAFETENSORS_WEIGHTS_NAME).exists():
        raise ValueError(f"{out} holds an adapter already")
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(out))
    save_file(weights, out / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    return config


def official_config(settings: dict[str, Any]) -> MoraConfig:
    """The configuration that means the same as the settings of a `LoraConfig` of the authors' code.

    Args:
        settings: The settings by name, as in adapter_config.json: `use_mora`, `mora_type`, `r`, ... `lora_alpha` and
            `use_rslora` have no effect in the authors' code, and none here.

    Raises:
        ValueError: The settings are not those of a MoRA adapter of the authors' code, or `mora_type` is unknown, or
            MoRA does not have one of the settings.
    """
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"peft_type is {kind!r}; the authors' code saves a MoRA adapter with the type 'LORA'")
    if settings.get("use_mora") is not True:
        raise ValueError(
            "this is a LoRA adapter, because use_mora is not true; PeftModel.from_pretrained loads it as it is"
        )
    for name, off in ABSENT.items():
        if settings.get(name, off) != off:
            raise ValueError(f"{name} must be {off!r}, got {settings[name]!r}: MoRA does not have this setting")
    operator, groups = operators.official_options(settings.get("mora_type"))
    same = {name: settings[name] for name in SAME if settings.get(name) is not None}
    dropout = settings.get("lora_dropout", 0.0)
    return MoraConfig(operator=operator, rounding="nearest", mora_dropout=dropout, **groups, **same)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not a JSON file") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings")
    return settings


def _weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the converted adapter: one M for each layer. Tensors of whole modules keep their names."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; a file of another format is not read")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from None
    weights = {}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path} is broken: {name} holds NaN or infinity")
        layer, is_adapter, matrix = name.partition(".lora_")
        if is_adapter and matrix not in ("A.weight", "B.weight"):
            raise ValueError(f"{path} holds {name}, which a MoRA adapter of the authors' code does not have")
        weights[f"{layer}.mora_M" if is_adapter else name] = tensor
        if matrix == "A.weight" or (is_adapter and f"{layer}.lora_A.weight" not in tensors):
            _check_pair(tensors, layer, path)
    if not any(name.endswith(".mora_M") for name in weights):
        raise ValueError(f"{path} holds no adapter")
    return weights


def _check_pair(tensors: dict[str, Tensor], layer: str, path: Path) -> None:
    """Check that the file holds the same matrix (q, q) twice for this layer."""
    pair = []
    for name in (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"):
        if name not in tensors:
            raise ValueError(f"{path} is not complete: {name} is missing")
        pair.append(tensors[name])
    if pair[0].ndim != 2 or pair[0].shape[0] != pair[0].shape[1] or not torch.equal(*pair):
        raise ValueError(f"{path} is no MoRA adapter: lora_A and lora_B of {layer} are not the same square matrix")
