"""Save and load the base weights that training changed.

PEFT saves only the adapter. But after a restart the base weights hold the merged updates, and in pretraining the
parameters beside the adapters are trained too. `save_base` writes these base weights to `base.safetensors`. `load_base`
reads the file and changes the pretrained base model to the same bits. For restarts the file holds either the list of
merged updates or the merged weights, whichever is smaller. The tensors in the file are named

    weight:<parameter>          a parameter beside the adapters that was trained
    update:<number>:<tensor>    a tensor of an `Update`: M, or A and B
    merged:<layer>              the base weight of a layer after all merges
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import CONFIG_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import sharded
from .restart import Update, adapted_layers, base_weight, check_unmerged, plain_name, regroup

BASE_FILE = "base.safetensors"


def save_base(
    model: PeftModel,
    updates: Sequence[Update],
    folder: str | Path,
    adapter: str = "default",
    write: bool = True,
    *,
    trained: bool = False,
) -> None:
    """Write the base weights that differ from the pretrained ones. If none differs, an earlier file is removed.

    Sharded weights are gathered one after the other. Every rank must therefore call this function, and exactly one rank
    must call it with `write`.

    Args:
        model: The model in training.
        updates: The updates of all restarts so far, in the order of the restarts: those that `load_base` returned, and
            those of the restarts since.
        folder: The folder that `save_pretrained` gets. PEFT saves an adapter with another name than `default` in a
            folder of this name below: load such a model with the option `subfolder` of `load_restarted`.
        adapter: The name of the adapter.
        write: Whether this rank writes the file.
        trained: Whether the adapted weights were trained themselves, as in a warm start. The file then holds all base
            weights, and no updates.

    Raises:
        ValueError: An adapter is merged: the merged weights would hold its update, and so would its own file.
    """
    check_unmerged(model)

    def whole(tensor: Tensor) -> Tensor:
        gathered = sharded.whole(tensor.detach())
        return gathered.cpu().contiguous() if write else gathered.new_empty(0)

    tensors = {f"weight:{name}": whole(p) for name, p in trained_rest(model, with_frozen=trained)}
    layers = adapted_layers(model, adapter) if updates and not trained else ()
    merged = {name: base_weight(layer).detach() for name, layer in layers}
    descriptions: list[dict[str, Any]] = []
    if _are_smaller(updates, merged):
        for i, update in enumerate(updates):
            descriptions.append({"layer": update.layer, "operator": update.operator})
            tensors |= {f"update:{i}:{key}": t.contiguous() for key, t in update.tensors.items()}
    else:
        tensors |= {f"merged:{name}": whole(t) for name, t in merged.items()}
    path = Path(folder) / BASE_FILE
    if write and tensors:
        save_file(tensors, path, metadata={"updates": json.dumps(descriptions)})
    elif write:
        path.unlink(missing_ok=True)


def shortened(model: PeftModel, updates: Sequence[Update], adapter: str = "default") -> list[Update]:
    """The list of updates without the tensors that no `save_base` will write: the same files, in less memory.

    Once the updates are as large as the merged weights, `save_base` writes only the merged weights. The list then is
    what `load_base` would return: an update without tensors for each layer.

    Args:
        model: The model in training.
        updates: The updates of all restarts so far, as for `save_base`.
        adapter: The name of the adapter.
    """
    merged = {name: base_weight(layer) for name, layer in adapted_layers(model, adapter)}
    return list(updates) if _are_smaller(updates, merged) else [Update(name, {}, {}) for name in merged]


def _are_smaller(updates: Sequence[Update], merged: dict[str, Tensor]) -> bool:
    """Whether the updates are known and take less space than the merged weights."""
    size_of_updates = sum(size(t) for update in updates for t in update.tensors.values())
    return size_of_updates < sum(map(size, merged.values())) and all(update.tensors for update in updates)


@torch.no_grad()
def load_base(model: nn.Module, folder: str | Path, adapter: str = "default") -> list[Update]:
    """Change the base weights of `model` in place to the base weights that `save_base` saved in `folder`.

    The adapter of a PeftModel gets the grouping of the saved adapter too, because restarts change the grouping, and
    `load_adapter` reads the matrices of an adapter that exists without its configuration.

    Args:
        model: The pretrained base model, or a PeftModel of it whose adapters are not merged.
        folder: The folder of the adapter. If it has no base.safetensors, the base weights are not changed.
        adapter: The name of the adapter of a PeftModel that the folder holds.

    Returns:
        The merged updates, in order. If the file holds the merged weights instead, an update without tensors for each
        layer: with these in the list, `save_base` writes the merged weights again.

    Raises:
        ValueError: `folder` is no folder on this machine, or an adapter is merged. Or the file is broken or belongs to
            another model; some weights of `model` may have changed then.
    """
    _check_folder(Path(folder))
    path = Path(folder) / BASE_FILE
    try:
        updates = _load(model, path) if path.is_file() else []
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from None
    if isinstance(model, PeftModel) and (Path(folder) / CONFIG_NAME).is_file():
        saved, own = PeftConfig.from_pretrained(str(folder)), model.peft_config.get(adapter)
        if own is not None and {saved.peft_type, own.peft_type} == {"MORA"} and _groups(saved) != _groups(own):
            regroup(model, *_groups(saved), adapter)
    return updates


def _groups(config: Any) -> tuple[str, str]:
    return config.in_groups, config.out_groups


def _load(model: nn.Module, path: Path) -> list[Update]:
    base = model
    if isinstance(model, PeftModel):
        check_unmerged(model)
        base = model.get_base_model()
    sharded.reshard(base)
    parameters = {plain_name(name): p for name, p in base.named_parameters()}
    layers = {plain_name(name): module for name, module in base.named_modules()}  # of a wrapped layer: the innermost
    updates = []
    with safe_open(path, "pt") as file:
        descriptions = _descriptions(file, path)
        names = list(file.keys())
        for name in names:
            kind, _, target = name.partition(":")
            if kind == "weight":
                _copy(parameters.get(target), _finite(file, name, path), target, path)
            elif kind == "merged":
                _copy(_base_weight(layers, target, path), _finite(file, name, path), target, path)
                updates.append(Update(target, {}, {}))
            elif kind != "update":
                raise ValueError(f"{path} holds {name!r}; a name must start with weight:, merged: or update:")
        for i, (layer, operator) in enumerate(descriptions):
            tensors = {n.rsplit(":", 1)[1]: _finite(file, n, path) for n in names if n.startswith(f"update:{i}:")}
            weight = _base_weight(layers, layer, path)
            updates.append(Update(layer, tensors, operator))
            try:
                updates[-1].add_(weight)
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise ValueError(f"{path}: update {i} does not fit {layer} of shape {tuple(weight.shape)}") from error
    return updates


def _descriptions(file: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The attributes (layer, operator) of each `Update` in the file."""
    try:
        entries = json.loads((file.metadata() or {}).get("updates", "[]"))
        return [(str(entry["layer"]), dict(entry["operator"])) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: the list of updates in its metadata cannot be read ({error!r})") from None


def _finite(file: Any, name: str, path: Path) -> Tensor:
    tensor: Tensor = file.get_tensor(name)
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{path} is broken: {name} holds NaN or infinity")
    return tensor


def load_restarted(base: nn.Module, folder: str | Path, **options: Any) -> PeftModel:
    """Load a finished ReLoRA or ReMoRA model. The folder and the pretrained model are sufficient.

    Args:
        base: The pretrained model. Its weights are changed in place.
        folder: The folder with the adapter and, if a restart merged an update, with base.safetensors.
        options: Options of `PeftModel.from_pretrained`. With `subfolder`, the adapter lies in this folder below
            `folder`, and base.safetensors in one of the two.

    Raises:
        ValueError: The folder of the adapter is no folder on this machine, or base.safetensors lies above it, is broken
            or belongs to another model.
    """
    place = Path(folder, options.get("subfolder") or "")
    _check_folder(place)
    holders = [f for f in (place, Path(folder)) if (f / BASE_FILE).is_file()]
    if not holders and (place.parent / BASE_FILE).is_file():
        raise ValueError(
            f"{place} has no {BASE_FILE}, but {place.parent} has: load folder={str(place.parent)!r} with "
            f"subfolder={place.name!r}"
        )
    load_base(base, holders[0] if holders else place)
    return PeftModel.from_pretrained(base, folder, **options)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder on this machine; download the files of a hub first")


def trained_rest(model: PeftModel, *, with_frozen: bool = False) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters beside the adapters, each with its name in the base model.

    With `with_frozen`, also the parameters that do not train.

    PEFT keeps copies of `modules_to_save` beside the base model and saves them with the adapter, so they are left out.
    Buffers, such as the running mean of a BatchNorm, are neither returned nor saved.
    """
    base = model.get_base_model()
    layers = [module for module in base.modules() if isinstance(module, BaseTunerLayer)]
    adapters = {p for layer in layers for n, p in layer.named_parameters() if not n.startswith("base_layer.")}
    return [
        (plain_name(name), p)
        for name, p in base.named_parameters()
        if (p.requires_grad or with_frozen) and p not in adapters and ".modules_to_save." not in name
    ]


def size(tensor: Tensor) -> int:
    """The size of a tensor in bytes."""
    return tensor.numel() * tensor.element_size()


def _base_weight(layers: dict[str, nn.Module], layer: str, path: Path) -> Tensor:
    try:
        return base_weight(layers[layer])
    except (KeyError, AttributeError):
        raise ValueError(f"{path} holds weights of {layer}, which the model does not have") from None


def _copy(target: Tensor | None, source: Tensor, name: str, path: Path) -> None:
    if target is None:
        raise ValueError(f"{path} holds weights of {name}, which the model does not have")
    if target.shape != source.shape:
        raise ValueError(f"{path}: {name} has shape {tuple(source.shape)}; in the model: {tuple(target.shape)}")
    sharded.write_(target, source)
