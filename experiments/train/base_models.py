"""The base model and the tokenizer of a run, loaded by a name of this project, from a folder or from the hub."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from .. import files
from ..errors import ConfigError, one_line, out_of_memory, reason_of
from ..identity import fingerprint
from ..spec import shapes
from ..spec.run_config import Paths, RunConfig
from . import scratch

TINY_SEED = 0
WEIGHTS = "model.safetensors"
BASE = "base-10m"  # the base model of continual pretraining at laptop scale
BASE_VERSION = 1  # raise it when the text, the model or the steps of its pretraining change


class BaseModel(NamedTuple):
    """A base model and its tokenizer.

    Attributes:
        network: The model, of transformers.
        tokenizer: The tokenizer, of transformers.
        revision: What tells two versions of the model apart: a commit of the hub, a hash of a folder, or a seed.
    """

    network: Any
    tokenizer: Any
    revision: str


def of_run(config: RunConfig, dtype: Any, device: str = "cpu", tokenizer: Any = None) -> BaseModel:
    """The base model of a run on `device`; see `load`."""
    cache, quantization = config.paths.cache_folder, config.quantization
    return load(config.model, cache, dtype, config.seed, quantization=quantization, device=device, tokenizer=tokenizer)


def tokenizer_of_run(config: RunConfig) -> Any:
    """The tokenizer of a run, without the weights: the data of the run can be prepared before the weights are loaded.

    Raises:
        ConfigError: The tokenizer cannot be loaded.
    """
    return _tokenizer(config.model, config.paths.cache_folder)


def load(
    model: str,
    cache: Path,
    dtype: Any,
    seed: int = 0,
    *,
    quantization: str = "none",
    device: str = "cpu",
    tokenizer: Any = None,
) -> BaseModel:
    """The base model on `device`.

    Args:
        model: A name of this project (`tiny`, `smollm2-135m`, `base-10m`, `scratch.NAMES`), a folder, or an id of the
            hub.
        cache: The folder for models that this project prepares.
        dtype: The number format of the weights that are not quantized.
        seed: Draws the random weights of `scratch.NAMES`.
        quantization: `none`, `nf4` or `int8`.
        device: `cpu` or `cuda`; a quantized model cannot be moved to another device.
        tokenizer: The model's tokenizer, where the caller has it.

    Raises:
        ConfigError: The model cannot be loaded, lacks weights, or is not a causal language model.
    """
    from .quantization import keep_trainable, loading_options, reloaded

    paths = Paths(results="results", cache=str(cache))
    options = loading_options(quantization, dtype, device)
    if tokenizer is None:
        tokenizer = _tokenizer(model, cache)
    if model == "tiny":
        network, revision = tiny_model(), fingerprint(model, paths)
    elif model in scratch.NAMES:
        network, revision = scratch.network(model, tokenizer, seed), f"{model}-seed{seed}"
    else:
        source = _source(model, cache)
        network = _pretrained(model, source, dtype, options)
        # The configuration of a folder may hold the commit of another model.
        commit = None if Path(source).is_dir() else getattr(network.config, "_commit_hash", None)
        revision = commit or fingerprint(source, paths)
        return BaseModel(keep_trainable(network) if options else network.to(device), tokenizer, revision)
    network = network.to(dtype)
    if options:
        network = keep_trainable(reloaded(network, options))
    return BaseModel(network if options else network.to(device), tokenizer, revision)


def _source(model: str, cache: Path) -> str:
    """Where transformers finds a pretrained model: a folder, or the model's id on the hub."""
    own = {"smollm2-135m": smollm2, BASE: pretrained_base}
    return str(own[model](cache)) if model in own else model


def _tokenizer(model: str, cache: Path) -> Any:
    from transformers import AutoTokenizer

    from ..spec.skeletons import configuration  # here: with torch, the import takes seconds

    if model == "tiny":
        return scratch.byte_tokenizer()
    if model in scratch.NAMES:
        return scratch.tokenizer_of(model, cache)
    source = _source(model, cache)
    try:
        return AutoTokenizer.from_pretrained(source, config=configuration(source), trust_remote_code=False)
    except Exception as error:  # the libraries raise many kinds of errors for a broken folder
        raise _not_loaded(model, source, reason_of(error)) from error


def _pretrained(model: str, source: str, dtype: Any, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    from ..spec.skeletons import configuration, refuse_encoder

    try:
        config = configuration(source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
        )
        network, loading = loaded
    except Exception as error:  # as for the tokenizer
        if out_of_memory(error):
            raise
        reason = reason_of(error)
        if "ignore_mismatched_sizes" in reason:
            reason = "the weights have other shapes than its config.json says"
        raise _not_loaded(model, source, reason) from error
    refuse_encoder(network, model)
    if missing := sorted(loading["missing_keys"]):
        raise ConfigError(
            f"model {model} lacks weights, which would be random: {missing[0]} (and {len(missing) - 1} more)"
        )
    return network


def _not_loaded(model: str, source: str, reason: str) -> ConfigError:
    """The error of a model that cannot be loaded; for a model of the hub, the message says how to get the model."""
    if Path(source).is_dir():
        return ConfigError(f"model {model} cannot be loaded: {reason}")
    if "gated" in reason:
        advice = f"accept its licence at https://huggingface.co/{model}, and set HF_TOKEN"
    else:
        advice = (
            f"fetch it where there is a network (hf download {model}), or use a copy: model=FOLDER model_id={model}"
        )
    return ConfigError(f"model {model} cannot be loaded; {advice}; docs/models-and-data.md ({reason})")


def stored_format(model: str) -> str:
    """The number format of the weights in the files of a model, such as bfloat16; float32 for models of this project.

    Raises:
        ConfigError: The config of the model cannot be read.
    """
    from ..spec.skeletons import configuration

    if model in shapes.NAMED and "/" not in model:
        return "float32"
    try:
        dtype = configuration(model).dtype
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {model} cannot be loaded: {one_line(str(error))}") from error
    return str(dtype or "float32").removeprefix("torch.")


def tiny_model() -> Any:
    """A LLaMA of 1.7 million random weights, the same on every machine and for every seed: a model for tests."""
    shape = shapes.NAMED["tiny"]
    return scratch.llama(shape, TINY_SEED, bos=0, eos=1, pad=2, spread=scratch.head_spread(shape))


def smollm2(cache: Path) -> Path:
    """The folder of SmolLM2-135M-Instruct: fetched once, converted from GGUF to safetensors, kept in the cache."""
    folder = cache / "models" / "smollm2-135m"
    with files.lock(folder.with_name(f".{folder.name}.lock")):
        if not _is_whole(folder, cache):
            if folder.is_dir():
                print(f"warning: {folder} is damaged, or has no sums; the model is converted again", file=sys.stderr)
            _convert_smollm2(cache, folder)
    return folder


def _sums_file(folder: Path) -> Path:
    """The sums of the files in the folder of a model. What is inside the folder is part of the model's revision."""
    return folder.with_name(f"{folder.name}.sums.json")


def _keep_sums(written: Path, folder: Path) -> None:
    """Keep the sums of the files in `written`, which becomes `folder`."""
    files.write_summed(_sums_file(folder), {path.name: files.sha256(path) for path in written.iterdir()})


def _is_whole(folder: Path, cache: Path) -> bool:
    """Whether a folder holds the files with the sums that were kept, and no other file."""
    try:
        found = files.sums(sorted(folder.iterdir()), Paths(results="results", cache=str(cache)).sums(folder))
    except OSError:
        return False
    return {path.name: digest for path, digest in found.items()} == files.read_summed(_sums_file(folder))


def _convert_smollm2(cache: Path, folder: Path) -> None:
    """Write SmolLM2-135M-Instruct to `folder` as transformers loads it.

    The weights are the dequantized 4-bit weights of an instruct model. transformers reads the GGUF file but refuses to
    save the model. The model is therefore built again from its configuration without the quantization entry, and every
    weight is loaded into the new model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    from ..data import sources

    gguf = sources.fetch("smollm2-135m", cache)["SmolLM2-135M-Instruct.Q4_1.gguf"]
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config: Any = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    rebuilt = LlamaForCausalLM(config)
    rebuilt.load_state_dict(read.state_dict(), strict=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    files.remove(folder)
    with files.writing("the model smollm2-135m", folder.parent), files.new_folder(folder) as temporary:
        rebuilt.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "origin.json").write_text(
            json.dumps({"from": gguf.name, "weights": "dequantised from Q4_1"}), encoding="utf-8"
        )
        _keep_sums(temporary, folder)


def base_folder(cache: Path) -> Path:
    """Where `make base` puts the base model of continual pretraining."""
    return cache / "models" / f"{BASE}-v{BASE_VERSION}"


def pretrained_base(cache: Path) -> Path:
    """The folder of the base model of continual pretraining, whose files are compared with their sums.

    Raises:
        ConfigError: The model was not pretrained on this machine yet, or a file is damaged.
    """
    folder = base_folder(cache)
    if not (folder / "origin.json").is_file():
        raise ConfigError(f"model={BASE} is pretrained once on each machine: run `make base` first ({folder})")
    # A version before 0.2.0 kept the sum of the weights alone.
    if not (_is_whole(folder, cache) if _sums_file(folder).exists() else _has_its_weights(folder)):
        raise ConfigError(f"model={BASE}: a file of {folder} is damaged: remove the folder, and run `make base` again")
    return folder


def _has_its_weights(folder: Path) -> bool:
    try:
        origin = json.loads((folder / "origin.json").read_bytes())
        return bool(files.sha256(folder / WEIGHTS) == origin["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def keep_base(trained: Path, tokenizer: Any, key: str, cache: Path) -> Path:
    """Put a model that a run has pretrained where `pretrained_base` finds it.

    Args:
        trained: The folder of the trained model.
        tokenizer: Its tokenizer.
        key: The key of the run.
        cache: The folder for models that this project prepares.
    """
    folder = base_folder(cache)
    with files.new_folder(folder) as temporary:
        for path in (trained / WEIGHTS, trained / "config.json"):
            shutil.copy(path, temporary)
        tokenizer.save_pretrained(temporary)
        files.write_json(temporary / "origin.json", {"run": key, "sha256": files.sha256(temporary / WEIGHTS)})
        _keep_sums(temporary, folder)
    return folder
