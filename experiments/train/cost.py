"""The cost of a run: parameters, time, tokens, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import TrainerState

from .. import tasks
from ..spec.run_config import RunConfig
from ..spec.skeletons import linear_layers
from ..spec.target_modules import kind
from ..tasks import TaskData
from . import peak_memory
from .adapt import AdaptedModel
from .placement import Placement


class Meter:
    """Measures the cost of a run; it is made before the training and read after it."""

    def __init__(self, adapted: AdaptedModel, placement: Placement) -> None:
        self.model, self.budget, self.device = adapted.model, adapted.budget, placement.device
        peak_memory.reset(self.device)

    def read(self, state: TrainerState, prepared: TaskData, config: RunConfig, saved: Path) -> dict[str, Any]:
        """The `cost` section of the record.

        `seconds` covers the training and the points of the curve, in all sessions of a resumed run. `tokens` are those
        of the examples that the training took, of mean length; the last batch of a pass over the data may be smaller.
        `budget_parameters` is what the LoRA of rank `method.rank` trains; methods without a rank have no budget.
        `peak_memory_bytes` is the most memory that was in use at one time, in all sessions: on the GPU, or by the
        process on a CPU.
        """
        seconds = max((row.get("seconds", 0.0) for row in state.log_history), default=0.0)
        peaks = [row.get("peak_memory_bytes", 0) for row in state.log_history]
        batch_size, steps, mean_length = config.training.batch_size, state.global_step, prepared.mean_length
        if mean_length is None:
            mean_length = sum(len(row["input_ids"]) for row in prepared.train) / len(prepared.train)
            examples = tasks.examples_taken(len(prepared.train), batch_size, steps)
        else:
            examples = batch_size * steps  # the data are a stream, which has no last batch
        tokens = round(mean_length * examples)
        trainable, total = count_parameters(self.model)
        return {
            "trainable_parameters": trainable,
            **({} if self.budget is None else {"budget_parameters": self.budget}),
            "total_parameters": total,
            "seconds": round(seconds, 3),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
            "peak_memory_bytes": max([*peaks, peak_memory.peak(self.device)]),
            "adapter_bytes": sum(p.stat().st_size for p in saved.rglob("*.safetensors")),
        }


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are in all; each counts once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def adapted_kinds(model: nn.Module) -> dict[str, dict[str, int]]:
    """What trains, by the kind of its layer: kind -> how many `layers` and how many trainable `parameters` they have.

    Counted are the layers with an adapter, or without adapters the linear layers that train where others do not. The
    result is empty where all of the model trains, or nothing.
    """
    layers: dict[str, Any] = {}
    if isinstance(model, PeftModel):
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    elif not all(p.requires_grad for p in model.parameters()):
        layers = {name: model.get_submodule(name) for name in linear_layers(model)[0]}
    kinds: dict[str, dict[str, int]] = {}
    for name, layer in layers.items():
        own = [p for part, p in layer.named_parameters() if p.requires_grad and not part.startswith("base_layer.")]
        if own:
            counts = kinds.setdefault(getattr(layer, "parameter_name", kind(name)), {"layers": 0, "parameters": 0})
            counts["layers"] += 1
            counts["parameters"] += sum(p.numel() for p in own)
    return kinds


def adapter_dtype(model: nn.Module) -> str:
    """The number formats of the parameters that train, for the record."""
    return ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}))
