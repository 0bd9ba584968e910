"""What a run needs: parameters, memory, FLOPs. For the estimate no weight is loaded or downloaded.

Of a model on the hub config.json is downloaded, and the shape of a model folder is kept in the cache.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from .. import tasks
from ..errors import ConfigError
from ..spec.run_config import Method, RunConfig

ADAM_STATES = 2


@dataclass(frozen=True)
class Estimate:
    """Bytes, tokens and FLOPs of one run. Memory is the memory of one device, in bytes.

    Attributes:
        total: Parameters of the model with its adapter.
        trainable: Parameters that train.
        budget: Parameters that the LoRA of rank `method.rank` trains; None without a rank.
        saved: Bytes of the trained parameters on the disk.
        weights: Memory of all parameters.
        gradients: Memory of the gradients.
        optimizer: Memory of the optimizer's state.
        activations: The most memory of everything else: (without, with) activation checkpointing.
        peak: The most memory at any moment: (without, with) activation checkpointing.
        tokens: Training tokens, at most.
        flops: FLOPs of training, without evaluation: (without, with) activation checkpointing.
        adapted: Kind of layer -> how many `layers` are adapted, and their trainable `parameters`.
        notes: Lines that say what is adapted or not known. `activations`, `peak` and `flops` are NaN if not known.
    """

    total: int
    trainable: int
    budget: int | None
    saved: int
    weights: float
    gradients: float
    optimizer: float
    activations: tuple[float, float]
    peak: tuple[float, float]
    tokens: int
    flops: tuple[float, float]
    adapted: dict[str, dict[str, int]]
    notes: tuple[str, ...]


def estimate(config: RunConfig) -> Estimate:
    """What a run needs on each of its devices.

    Raises:
        ConfigError: Nothing trains, or the run does not fit its model.
    """
    from ..spec.skeletons import silent
    from ..train import cost, fit
    from ..train.placement import Placement
    from . import trace

    if not config.method.trains:
        raise ConfigError(f"dry_run: method={config.method.name} trains nothing, there is nothing to estimate")
    t, h, shape = config.training, config.hardware, fit.model(config)
    placement = Placement.of(h)
    devices, sharded, rows = h.ranks, SHARDED[h.sharding or "none"], config.device_batch
    length = tasks.of(config).row_tokens(config)

    with silent():
        adapted = trace.adapted(config, placement)
    parameters = [*adapted.model.named_parameters()]
    matrices = {name: k * d for name, (k, d) in shape.linears.items() if name != shape.head}
    training = [p for _, p in parameters if p.requires_grad]
    trained = sum(p.numel() * p.element_size() for p in training)
    parts = {
        "weights": sum(stored(name, p, config.quantization, matrices) for name, p in parameters),
        "gradients": trained,
        "optimizer": ADAM_STATES * trained,
    }
    held = {name: size / (devices if name in sharded else 1) for name, size in parts.items()}

    notes = list(adapted.notes)
    if t.warm_start_steps:
        notes.append(
            f"in the first {t.warm_start_steps:,} steps all weights train; method=fft dry_run=true estimates such steps"
        )
    try:
        step = trace.step(adapted.model, placement, rows, length)
    except trace.UntracedError as error:
        notes.append(f"activations, peak memory and FLOPs are not known: {error}")
        step = trace.Step(trace.UNKNOWN, trace.UNKNOWN)
    # For each product the weights of a quantized layer are unpacked.
    extra = max(matrices.values()) * placement.dtype.itemsize if config.quantization != "none" else 0
    activations = (step.plain.peak + extra, step.checkpointed.peak + extra)
    micro_batches = t.steps * t.batch_size / rows
    return Estimate(
        total=sum(p.numel() for _, p in parameters),
        trainable=sum(p.numel() for p in training),
        budget=adapted.budget,
        saved=trained,
        weights=held["weights"],
        gradients=held["gradients"],
        optimizer=held["optimizer"],
        activations=activations,
        peak=peaks(config, parts, held, activations),
        tokens=t.steps * t.batch_size * length,
        flops=(
            micro_batches * (step.plain.forward + step.plain.backward),
            micro_batches * (step.checkpointed.forward + step.checkpointed.backward),
        ),
        adapted=cost.adapted_kinds(adapted.model),
        notes=tuple(notes),
    )


def peaks(
    config: RunConfig, parts: dict[str, float], held: dict[str, float], activations: Sequence[float]
) -> tuple[float, float]:
    """The most memory of a device at any moment: (without, with) activation checkpointing.

    With several micro-batches a step, the gradients of the earlier ones are in memory beside the activations. In the
    optimizer's step the activations are gone, and on a GPU the optimizer needs the gradients' memory a second time.

    Args:
        config: The configuration of the run.
        parts: Bytes of the weights, the gradients and the optimizer's state, before processes divide them.
        held: Those of one device.
        activations: Bytes of everything else: (without, with) activation checkpointing.
    """
    h, devices = config.hardware, config.hardware.ranks
    waiting = held["gradients"] if config.rank_batch > config.device_batch else 0.0
    stepping = held["gradients"] * (2 if h.device != "cpu" else 1)
    buckets = held["gradients"] if devices > 1 and h.sharding in (None, "none") else 0.0  # in which DDP sums gradients
    loading = parts["weights"] if SHARDED[h.sharding or "none"] else 0.0  # each process first loads all weights
    plain, checkpointed = (
        max(held["weights"] + held["optimizer"] + buckets + max(a + waiting, stepping), loading) for a in activations
    )
    return plain, checkpointed


def lora_of(method: Method) -> Method:
    """The LoRA whose parameters a method spends: of the same rank, on the same layers, with the same dropout."""
    peft: dict[str, Any] = {"peft_type": "LORA", "r": method.rank, "target_modules": method.targets}
    peft["lora_dropout"] = method.setting("dropout") or 0.0
    own = dict.fromkeys(name for name in Method.model_fields if name.startswith(("budget", "restart_", "reset_")))
    own |= dict.fromkeys(("initialisation", "rate_ratios", "groupings", "optimizer_reset"))
    return method.replace(name="lora", peft=peft, official_dtype="base", **own)


def stored(name: str, parameter: Any, quantization: str, matrices: Container[str]) -> float:
    """Bytes of a parameter of the adapted model. Only the `matrices`, the linear layers but the head, are quantized."""
    layer = name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".base_layer")
    if quantization == "none" or layer not in matrices:
        size: int = parameter.numel() * parameter.element_size()
        return size
    if quantization == "nf4":
        return parameter.numel() * (1 / 2 + 4 / 64)
    return parameter.numel() + 4 * len(parameter)


# The parts that the processes divide. With "gradients" each process holds all weights from forward to backward pass.
SHARDED = {
    "none": frozenset[str](),
    "gradients": frozenset({"gradients", "optimizer"}),
    "zero2": frozenset({"gradients", "optimizer"}),
    "full": frozenset({"weights", "gradients", "optimizer"}),
}
