"""Models without weights, which transformers builds on torch's meta device, and what they tell about their layers."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.conv import _ConvNd
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from ..errors import ConfigError, one_line, out_of_memory, reason_of
from . import shapes
from .shapes import NAMED, Shape


def shape_of(model: str, cache: Path) -> Shape:
    """The shape of any model: of a name of this project, of a folder, or of an id on the hub.

    Args:
        model: The name, the folder or the id. Of an id on the hub only config.json is downloaded.
        cache: The folder in which the shapes of folders are kept.

    Raises:
        ConfigError: transformers cannot build the model, or the model has no embedding of tokens.
    """
    shape = shapes.at_hand(model, cache)
    if shape is None:
        network = built(model)
        try:
            shape = of_network(network)
        except (AttributeError, NotImplementedError) as error:
            raise ConfigError(
                f"model {model} is no language model that can be adapted: {one_line(str(error))}; "
                "allowed: models with an embedding of tokens"
            ) from error
        shapes.keep(shape, model, cache)
    return shape


def built(model: str) -> Any:
    """The model of transformers on the meta device, where weights have a shape and no contents.

    Raises:
        ConfigError: transformers cannot build the model.
    """
    if model in NAMED:
        with torch.device("meta"):
            return LlamaForCausalLM(NAMED[model].config(pad_token_id=2))
    try:
        config = configuration(model)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds of errors for a broken config
        if out_of_memory(error):
            raise
        raise ConfigError(
            f"model {model} cannot be loaded: {reason_of(error)}; "
            "allowed: what transformers.AutoModelForCausalLM builds without code from the model's folder"
        ) from error
    refuse_encoder(network, model)
    return network


def refuse_encoder(network: Any, model: str) -> None:
    """Refuse an encoder, such as BERT, which transformers builds as a language model with a warning alone.

    A configuration may say `is_decoder` without any meaning. It has a meaning for models that look at it when they are
    built.

    Raises:
        ConfigError: The model reads texts in both directions.
    """
    looks = "is_decoder" in inspect.unwrap(type(network).__init__).__code__.co_names
    if looks and getattr(network.config, "is_decoder", None) is False:
        raise ConfigError(
            f"model {model} reads texts in both directions, so it would read the answers that it is scored on; "
            'allowed: a causal model, or "is_decoder": true in its config.json'
        )


def configuration(model: str | Path) -> Any:
    """The configuration of a model, of transformers. Every model that is built from a folder is built from this one.

    transformers chooses how the model computes. A folder may name kernels for that, which are code to download.
    """
    # False, not None: then Python code in a model folder is never run, and the user is not asked whether to run it.
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    for part in _parts(config):
        for setting in ("_attn_implementation_internal", "_experts_implementation_internal"):
            if getattr(part, setting, None) is not None:
                setattr(part, setting, None)
    return config


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and those inside it, such as that of the text model in a model of texts and pictures."""
    yield config
    for name in getattr(config, "sub_configs", {}):
        if (part := getattr(config, name, None)) is not None:
            yield from _parts(part)


def of_network(network: Any) -> Shape:
    """The shape of a model on the meta device without adapters. Its weights become fake tensors of torch."""
    config, embedding = network.config.get_text_config(), network.get_input_embeddings().weight
    linears, head = linear_layers(network)
    positions = getattr(config, "max_position_embeddings", None)
    return Shape(
        hidden=getattr(config, "hidden_size", embedding.shape[1]),
        vocabulary=len(embedding),
        positions=positions if isinstance(positions, int) and positions > 0 else None,
        parameters=sum(p.numel() for p in network.parameters()),
        linears=linears,
        head=head,
        uncalled=uncalled(network, tuple(linears)),
    )


def linear_layers(network: Any) -> tuple[dict[str, tuple[int, int]], str | None]:
    """The linear layers of a model by name, with (in_features, out_features), and the name of its head."""
    linears, head, output = {}, None, network.get_output_embeddings()
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            linears[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            linears[name] = (module.weight.shape[0], module.weight.shape[1])
        if module is output:
            head = name
    return linears, head


def stacked_weights(network: Any) -> dict[str, Any]:
    """The weights that are stacks of matrices, such as those of all experts of a layer: name -> parameter.

    Such a weight belongs to no linear layer. Kernels of convolutions and vectors with axes of length 1 do not count.
    """
    return {
        f"{name}.{part}": parameter
        for name, module in network.named_modules()
        if not isinstance(module, _ConvNd)
        for part, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and math.prod(parameter.shape[1:]) > max(parameter.shape)
    }


def uncalled(network: Any, layers: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the `layers` that a forward pass does not call. The pass computes on tensors without contents.

    Where the pass cannot be done without contents, no layer counts as uncalled.
    """
    called = set[str]()
    for name in layers:
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    if hasattr(network, "set_experts_implementation"):
        network.set_experts_implementation("batched_mm")  # the others look into the tensors
    try:
        with silent(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            give_memory(network)
            network.eval()(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False)
    except Exception:  # any error of a model that looks into its tensors
        return ()
    return tuple(name for name in layers if name not in called)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hide what transformers and torch log while a model computes on tensors without contents."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def give_memory(network: nn.Module) -> None:
    """Replace meta tensors by fake CPU tensors: attention keeps the same tensors for them as on a GPU."""
    fakes: dict[int, tuple[Tensor, Tensor]] = {}  # id of the meta tensor -> (meta, fake): shared weights stay shared
    for module in network.modules():
        stores: list[dict[str, Any]] = [module._parameters, module._buffers]
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in fakes:
                    fake: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    fakes[id(tensor)] = tensor, fake
                store[name] = fakes[id(tensor)][1]
