"""Base weights that training changed: what an adapter's own file does not hold.

PEFT saves the adapter alone. After a restart the base weights hold the merged updates, and in pretraining everything
beside the adapters trains as well. `save_base` writes those to `base.safetensors`; `load_base` brings a fresh base
model to the same bits. Merged updates are stored as what was merged or as the resulting weights, whichever is smaller.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import sharded
from .restart import Update, adapted_layers, base_weight

BASE_FILE = "base.safetensors"


def save_base(
    model: PeftModel, updates: Sequence[Update], folder: str | Path, adapter: str = "default", write: bool = True
) -> None:
    """Write the base weights that differ from the pretrained ones; no file where none does.

    Sharded weights are gathered one at a time. For that every rank must call this, one of them with `write`.

    Args:
        model: The model in training.
        updates: All that restarts have merged so far, in order.
        folder: Where the adapter is saved too.
        adapter: Its name.
        write: Whether this rank writes the file.
    """

    def whole(tensor: Tensor) -> Tensor:
        gathered = sharded.whole(tensor.detach())
        return gathered.cpu().contiguous() if write else gathered.new_empty(0)

    tensors = {f"weight:{name}": whole(p) for name, p in trained_rest(model)}
    merged = {name: base_weight(layer).detach() for name, layer in adapted_layers(model, adapter)} if updates else {}
    as_updates = sum(size(t) for update in updates for t in update.tensors.values())
    described: list[dict[str, Any]] = []
    if as_updates < sum(map(size, merged.values())):
        for i, update in enumerate(updates):
            described.append({"layer": update.layer, "operator": update.operator})
            tensors |= {f"update:{i}:{key}": t.contiguous() for key, t in update.tensors.items()}
    else:
        tensors |= {f"merged:{name}": whole(t) for name, t in merged.items()}
    if tensors and write:
        save_file(tensors, Path(folder) / BASE_FILE, metadata={"updates": json.dumps(described)})


@torch.no_grad()
def load_base(model: nn.Module, folder: str | Path) -> list[Update]:
    """Bring the base weights of `model` to what they were when `folder` was saved.

    Args:
        model: The pretrained base model, or a PeftModel around it whose adapters are not merged.
        folder: A folder that `save_base` wrote to; without a base.safetensors nothing happens.

    Returns:
        The merged updates, if the file holds them as such.

    Raises:
        ValueError: The file is broken, or does not belong to this model; the model's weights may have changed by then.
    """
    path = Path(folder) / BASE_FILE
    if not path.is_file():
        return []
    try:
        return _load(model, path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from None


def _load(model: nn.Module, path: Path) -> list[Update]:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    parameters = {plain_name(name): p for name, p in base.named_parameters()}
    updates = []
    with safe_open(path, "pt") as file:
        described = _described(file, path)
        names = list(file.keys())
        for name in names:
            kind, _, target = name.partition(":")
            if kind == "weight":
                _copy(parameters.get(target), _finite(file, name, path), target, path)
            elif kind == "merged":
                _copy(_base_weight(base, target, path), _finite(file, name, path), target, path)
            elif kind != "update":
                raise ValueError(f"{path} holds {name!r}, which is no weight and no update")
        for i, (layer, operator) in enumerate(described):
            parts = {n.rsplit(":", 1)[1]: _finite(file, n, path) for n in names if n.startswith(f"update:{i}:")}
            weight = _base_weight(base, layer, path)
            updates.append(Update(layer, parts, operator))
            try:
                updates[-1].add_(weight)
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise ValueError(f"{path}: update {i} does not fit {layer} of shape {tuple(weight.shape)}") from error
    return updates


def _described(file: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(layer, arguments of its operator) of each update."""
    try:
        entries = json.loads((file.metadata() or {}).get("updates", "[]"))
        return [(str(entry["layer"]), dict(entry["operator"])) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: what it says of its updates cannot be read ({error!r})") from None


def _finite(file: Any, name: str, path: Path) -> Tensor:
    tensor: Tensor = file.get_tensor(name)
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{path} is broken: {name} holds NaN or infinity")
    return tensor


def load_restarted(base: nn.Module, folder: str | Path, **options: Any) -> PeftModel:
    """A finished ReLoRA or ReMoRA model from its folder and the pretrained base; its history need not be known.

    Args:
        base: The pretrained model; its weights are changed in place.
        folder: Holds the adapter and, if anything was merged, base.safetensors.
        options: Passed to `PeftModel.from_pretrained`.
    """
    load_base(base, folder)
    return PeftModel.from_pretrained(base, folder, **options)


def trained_rest(model: PeftModel) -> list[tuple[str, nn.Parameter]]:
    """What trains beside the adapters, by its name in the base model."""
    prefix = model.base_model.prefix
    return [
        (plain_name(name), p)
        for name, p in model.get_base_model().named_parameters()
        if p.requires_grad and prefix not in name
    ]


def plain_name(name: str) -> str:
    """The name of a parameter in the base model, without the level that a tuner layer adds."""
    return name.replace(".base_layer.", ".")


def size(tensor: Tensor) -> int:
    """Bytes."""
    return tensor.numel() * tensor.element_size()


def _base_weight(base: nn.Module, layer: str, path: Path) -> Tensor:
    try:
        return base_weight(base.get_submodule(layer))
    except AttributeError:
        raise ValueError(f"{path} holds weights of {layer}, which the model does not have") from None


def _copy(target: Tensor | None, source: Tensor, name: str, path: Path) -> None:
    if target is None:
        raise ValueError(f"{path} holds weights of {name}, which the model does not have")
    if target.shape != source.shape:
        raise ValueError(f"{path}: {name} has shape {tuple(source.shape)}, the model's has {tuple(target.shape)}")
    sharded.write_(target, source)
