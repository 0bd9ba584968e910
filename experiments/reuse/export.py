"""A trained run as what others can load: a merged model, a LoRA or MiSS adapter, or the adapter as it was saved."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError, one_line, refused_merges
from ..store.records import Record, Store
from ..train import base_models
from . import load

FORMATS = ("merged", "lora", "miss", "adapter")
DTYPES = ("float32", "bfloat16", "float16")
SERVED = (16, 32, 64, 128, 256, 320, 512)  # the values of vLLM's --max-lora-rank from its default on
ROUNDING = 1e-6  # a relative error up to this is that of float32 itself


@dataclass(frozen=True)
class LoraLimits:
    """How far a LoRA may be from the update that it stands for.

    Attributes:
        rank: The rank of the LoRA. None: the rank of an exact LoRA where there is one, else the rank of the run.
        tolerance: The largest relative error of a layer (Frobenius norm) that is accepted.
        force: Whether any error is accepted.
    """

    rank: int | None = None
    tolerance: float = ROUNDING
    force: bool = False

    @property
    def without_effect(self) -> str:
        """That the options which differ from their defaults have no effect, in words; empty where none differs."""
        options = [f"--{field.name}" for field in fields(self) if getattr(self, field.name) != field.default]
        return f"{' and '.join(options)} {'have' if options[1:] else 'has'} no effect" if options else ""


def export(record: Record, store: Store, out: Path, form: str, limits: LoraLimits, dtype: str | None = None) -> str:
    """Write the model of `record` to the new folder `out`, in one of `FORMATS`.

    Args:
        record: The record of the finished run.
        store: The results folder with the model of the run.
        out: The new folder.
        form: One of `FORMATS`.
        limits: How far a LoRA may be from the update.
        dtype: The number format of the weights, one of `DTYPES`. None: a whole model has the format of the base model's
            files, an adapter has the format in which it was trained.

    Returns:
        One line that says what was written and how to load it.

    Raises:
        ConfigError: The run has no such form, or `out` exists or cannot be written. Nothing is left behind.
        StorageError: The disk is full. Nothing is left behind.
    """
    if form != "lora" and limits.without_effect:
        raise ConfigError(f"--format {form}: {limits.without_effect}; allowed: --format lora")
    if out.exists() or out.is_symlink():
        raise ConfigError(f"OUT exists already and is left as it is: {out}")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(files.new_folder(out))
        except OSError as error:
            raise ConfigError(f"OUT cannot be written: {out}: {error.strerror}") from None
        if form == "merged":
            return merged(record, store, folder, dtype)
        if form == "adapter" and dtype:
            raise ConfigError("--dtype: an adapter is exported as it was saved; allowed: --format merged, lora or miss")
        if form == "lora":
            summary = lora(record, store, folder, limits)
        else:
            summary = (miss if form == "miss" else adapter)(record, store, folder)
        unname_base(folder, record)
        if dtype:
            convert(folder / load.ADAPTER_WEIGHTS, dtype)
        return summary + word_on_rank(folder)


def peft_type(record: Record) -> str | None:
    """The PEFT method of a run; None for a run without an adapter."""
    peft = record.identity["method"].get("peft")
    return None if peft is None else str(peft["peft_type"])


def merged(record: Record, store: Store, out: Path, dtype: str | None = None) -> str:
    """The whole model with its update in the base weights, and its tokenizer; merged in float32, and then rounded."""
    import torch
    from peft import PeftModel

    model, tokenizer = load.restore(record, store)
    if isinstance(model, PeftModel):
        untie(model)
        with refused_merges(f"PEFT cannot merge the adapter of {record.name}", "--format adapter"):
            model = model.merge_and_unload(safe_merge=True)
    dtype = dtype or base_models.stored_format(record.config["model"])
    model = model.to(getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        _check_finite(parameter, name, dtype)
    with files.writing("the model", out.parent):
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    return f"a whole model, in {dtype}, with its tokenizer: AutoModelForCausalLM.from_pretrained loads it"


def untie(model: Any) -> None:
    """Give each adapted layer a base weight of its own, in place.

    A head can share its weight with the embedding. Merging the update of the head would change the embedding too.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    from mora.restart import sharers

    base = model.get_base_model()
    shared = sharers(base)
    for layer in [module.get_base_layer() for module in base.modules() if isinstance(module, BaseTunerLayer)]:
        if hasattr(layer, "weight") and layer in shared:  # a module of fused experts has other parameters
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
            base.config.tie_word_embeddings = False


def adapter(record: Record, store: Store, out: Path) -> str:
    """The adapter as training saved it, with what restarts or pretraining changed beside it."""
    from mora.checkpoint import BASE_FILE

    folder = load.folder_of(record, store)
    if not (folder / load.ADAPTER_SETTINGS).is_file():
        raise ConfigError(f"{record.name} trained the whole model and has no adapter; --format merged exports it")
    copy_adapter(folder, out)
    if (out / BASE_FILE).is_file():
        return f"an adapter and {BASE_FILE}, the base weights it needs: mora.checkpoint.load_restarted loads both"
    module = record.config["method"].get("module")  # the user's file that registers the adapter with PEFT
    first = "`import mora`" if peft_type(record) == "MORA" else f"an import of {module}" if module else ""
    return "an adapter: PeftModel.from_pretrained loads it" + (f" after {first}" if first else "")


def lora(record: Record, store: Store, out: Path, limits: LoraLimits) -> str:
    """A LoRA adapter that stock PEFT loads onto the pretrained base model."""
    folder, kind = load.folder_of(record, store), kind_on_pretrained(record, store)
    if kind == "LORA":
        if limits.without_effect:
            raise ConfigError(
                f"{record.name} is a LoRA already, on which {limits.without_effect}; allowed: --format lora alone"
            )
        copy_adapter(folder, out)
        return "the run's own LoRA adapter: PeftModel.from_pretrained loads it"
    if kind != "MORA":
        raise ConfigError(
            f"{record.name} is a {kind} adapter, which has no exact LoRA; --format merged exports the whole model"
        )
    return converted(record, store, out, limits)


def miss(record: Record, store: Store, out: Path) -> str:
    """A MiSS adapter that stock PEFT loads onto the pretrained base model, as small as the MoRA adapter."""
    from mora import conversion

    if (kind := kind_on_pretrained(record, store)) != "MORA":
        raise ConfigError(f"{record.name} is a {kind} adapter; --format miss is for MoRA with the operator sharing")
    model, _ = load.restore(record, store)
    try:
        form = conversion.as_miss(model)
    except ValueError as error:
        reason = one_line(str(error))
        raise ConfigError(
            f"{record.name}: {reason}; --format lora exports a LoRA, --format merged the whole model"
        ) from None
    with files.writing("the adapter", out.parent):
        form.save_pretrained(out)
    return "a MiSS adapter, exact, as small as the run's own: PeftModel.from_pretrained loads it"


def kind_on_pretrained(record: Record, store: Store) -> str:
    """The PEFT method of a run whose adapter makes sense on the pretrained base model.

    Raises:
        ConfigError: The run has no adapter, or changed base weights too.
    """
    from mora.checkpoint import BASE_FILE

    kind = peft_type(record)
    if kind is None:
        raise ConfigError(f"{record.name} trained the whole model and has no adapter; --format merged exports it")
    if (load.folder_of(record, store) / BASE_FILE).is_file():
        raise ConfigError(
            f"{record.name} changed base weights too (restarts, or pretraining beside the adapters): its last adapter "
            "makes sense on that base alone, not on the pretrained one; --format merged exports the sum"
        )
    return kind


def converted(record: Record, store: Store, out: Path, limits: LoraLimits) -> str:
    """A MoRA adapter as LoRA, unless too much of it would be lost."""
    from mora import conversion, operators

    operator = record.cell["operator"]
    exact = operator in operators.FACTORED and limits.rank is None
    rank = None if exact else limits.rank or record.cell["rank"]
    model, _ = load.restore(record, store)
    try:
        lora_form = conversion.as_lora(model, rank=rank)
    except ValueError as error:
        raise ConfigError(f"{record.name}: {one_line(str(error))}; --format merged exports the whole model") from None
    lost = (
        f"{lora_form.error:.3g} of the update is lost (relative Frobenius norm) in the worst layer, {lora_form.worst}"
    )
    if lora_form.error > limits.tolerance and not limits.force:
        raise ConfigError(
            f"{record.name} is no LoRA of rank {rank} (operator {operator}): {lost}; "
            "a higher --rank loses less, --tolerance or --force accepts it, --format merged loses nothing"
        )
    with files.writing("the adapter", out.parent):
        lora_form.save_pretrained(out)
    return "a LoRA adapter, " + (f"rank {rank}: {lost}" if rank else "exact, of rank r_hat")


def copy_adapter(folder: Path, out: Path) -> None:
    """The files of an adapter, without the Trainer's, which hold paths of the machine that trained.

    Raises:
        ConfigError: One of them is broken.
    """
    from mora.checkpoint import BASE_FILE

    with load.readable(folder):
        load.adapter_settings(folder)
        for path in folder.glob("*.safetensors"):
            load.finite_weights(path)
    for name in (load.ADAPTER_SETTINGS, load.ADAPTER_WEIGHTS, BASE_FILE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def unname_base(out: Path, record: Record) -> None:
    """Let adapter_config.json name the base model only by its id on the hub: other machines lack this one's folders."""
    path, model = out / load.ADAPTER_SETTINGS, record.identity.get("model")  # a folder has its content's hash here
    settings = load.adapter_settings(out)
    name = model if model and "/" in model else None
    if settings.get("base_model_name_or_path") not in (name, "", None):
        path.write_text(
            json.dumps(settings | {"base_model_name_or_path": name}, indent=2, sort_keys=True), encoding="utf-8"
        )


def convert(path: Path, dtype: str) -> None:
    """Write the tensors of a safetensors file again, in another number format.

    Raises:
        ConfigError: The format cannot hold a number.
    """
    import torch
    from safetensors.torch import load_file, save_file

    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(path).items()}
    for name, tensor in weights.items():
        _check_finite(tensor, name, dtype)
    with files.writing("the adapter", path.parent.parent):
        save_file(weights, path, metadata={"format": "pt"})


def _check_finite(tensor: Any, name: str, dtype: str) -> None:
    import torch

    if not torch.isfinite(tensor).all():
        raise ConfigError(f"--dtype {dtype} cannot hold the numbers of {name}; allowed: float32, bfloat16")


def word_on_rank(out: Path) -> str:
    """What a server has to be told about the rank of a LoRA; empty for other adapters and for small ranks."""
    settings = load.adapter_settings(out)
    if settings.get("peft_type") != "LORA":
        return ""
    rank = max(settings["r"], *(settings.get("rank_pattern") or {}).values(), 0)
    if rank <= SERVED[0]:
        return ""
    sufficient = next((size for size in SERVED if size >= rank), None)
    if sufficient is None:
        return f"; vLLM serves ranks up to {SERVED[-1]}, this one is {rank}: --rank exports a smaller one"
    return f"; its rank {rank} is above vLLM's default of {SERVED[0]}: vllm serve --max-lora-rank {sufficient}"


def push(out: Path, repository: str) -> str:
    """Upload the folder `out` to a hub repository, made private if it is new; its address.

    Raises:
        ConfigError: The hub refuses, or is not reached. The folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        hub = HfApi()
        hub.create_repo(repository, private=True, exist_ok=True)
        return str(hub.upload_folder(folder_path=out, repo_id=repository))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"--push {repository}: {reason} ({out} is kept)") from error
