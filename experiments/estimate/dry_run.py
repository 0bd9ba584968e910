"""What a run would need and cost. For the estimate no weight is loaded or downloaded.

Of a model on the hub config.json is downloaded, and the shape of a model folder is kept in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from .. import tasks
from ..errors import ConfigError
from ..spec.protocol import borrowed
from ..spec.run_config import Method, RunConfig
from . import ratios
from .cards import CARDS, UTILISATION

ADAM_STATES = 2
GIB = 2**30


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
    ways = (step.plain, step.checkpointed)
    activations = [way.peak + extra for way in ways]

    # With several micro-batches a step, the gradients of the earlier ones are in memory beside the activations. In the
    # optimizer's step the activations are gone, and on a GPU the optimizer needs the gradients' memory a second time.
    accumulates = config.rank_batch > rows
    waiting = held["gradients"] if accumulates else 0.0
    stepping = held["gradients"] * (2 if placement.device != "cpu" else 1)
    buckets = held["gradients"] if devices > 1 and h.sharding in (None, "none") else 0.0  # in which DDP sums gradients
    loading = parts["weights"] if sharded else 0.0  # each process loads all weights before they are divided
    peak = [
        max(held["weights"] + held["optimizer"] + buckets + max(a + waiting, stepping), loading) for a in activations
    ]

    micro_batches = t.steps * t.batch_size / rows
    return Estimate(
        total=sum(p.numel() for _, p in parameters),
        trainable=sum(p.numel() for p in training),
        budget=adapted.budget,
        saved=trained,
        weights=held["weights"],
        gradients=held["gradients"],
        optimizer=held["optimizer"],
        activations=(activations[0], activations[1]),
        peak=(peak[0], peak[1]),
        tokens=t.steps * t.batch_size * length,
        flops=(
            micro_batches * (step.plain.forward + step.plain.backward),
            micro_batches * (step.checkpointed.forward + step.checkpointed.backward),
        ),
        adapted=cost.adapted_kinds(adapted.model),
        notes=tuple(notes),
    )


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


def table(config: RunConfig) -> str:
    """The estimate as text for people, with the estimate for LoRA at the same rank beside it."""
    row_tokens = tasks.of(config).row_tokens(config)  # refuses a wrong file before anything heavy is imported

    from tabulate import tabulate

    from ..identity import name_of
    from ..train.trainer import quiet

    quiet()
    h, t, m = config.hardware, config.training, config.method
    columns = {m.name: estimate(config)}
    if m.rank is not None and m.name != "lora":
        columns["lora"] = estimate(config.replace(method=lora_of(m)))

    def row(what: str, of: Callable[[Estimate], str]) -> list[str]:
        return [what, *map(of, columns.values())]

    def gib(what: str, of: Callable[[Estimate], float]) -> list[str]:
        return row(what, lambda e: UNKNOWN if math.isnan(of(e)) else f"{of(e) / GIB:.2f} GiB")

    def flops(what: str, way: int) -> list[str]:
        return row(what, lambda e: UNKNOWN if math.isnan(e.flops[way]) else f"{e.flops[way]:.3g}")

    numbers = [
        row("parameters", lambda e: f"{e.total:,}"),
        row("trainable parameters", lambda e: f"{e.trainable:,}"),
        row("budget: LoRA's at this rank", lambda e: UNKNOWN if e.budget is None else f"{e.budget:,}"),
        row("saved on the disk", lambda e: f"{e.saved / 2**20:,.1f} MiB"),
        gib("weights", lambda e: e.weights),
        gib("gradients", lambda e: e.gradients),
        gib("optimizer (AdamW)", lambda e: e.optimizer),
        gib("activations", lambda e: e.activations[0]),
        gib("activations, checkpointed", lambda e: e.activations[1]),
        gib("peak", lambda e: e.peak[0]),
        gib("peak, checkpointed", lambda e: e.peak[1]),
        row("tokens, at most", lambda e: f"{e.tokens:,}"),
        flops("FLOPs", 0),
        flops("FLOPs, checkpointed", 1),
    ]
    where = f"{h.ranks} device{'s' if h.ranks > 1 else ''} ({h.device}) in {h.precision}"
    base = f"{config.model}, base weights {config.quantization if config.quantization != 'none' else 'not quantized'}"
    batch = f"{t.batch_size} rows of at most {row_tokens} tokens"
    lines = [
        f"dry run of {name_of(config)}: {base}",
        f"{t.steps:,} steps of {batch} on {where}, {config.device_batch} rows at a time; memory is that of one device",
        "",
        tabulate(numbers, ("", *columns), disable_numparse=True, colalign=("left", *("right" for _ in columns))),
        "",
    ]
    if kinds := columns[m.name].adapted:
        header = ("adapted layers", "layers", *(f"parameters, {name}" for name in columns))
        lines += [tabulate(adapted_layers(kinds, columns), header, disable_numparse=True), ""]
    if notes := dict.fromkeys([*borrowed(config), *(note for e in columns.values() for note in e.notes)]):
        lines += [*(f"note: {note}" for note in notes), ""]
    if run_ratios := ratios.beside_paper(config):
        texts = [[r.name, ratios.text(r.value), "-" if r.paper is None else ratios.text(r.paper)] for r in run_ratios]
        paper = ratios.paper_run(config)
        header = ("ratio", "this run", f"the paper's, on {paper.model}" if paper else "the paper's")
        lines += [tabulate(texts, header, disable_numparse=True), ""]
    if math.isnan(columns[m.name].flops[0]):
        return "\n".join(lines).rstrip()
    if h.device == "cpu":
        return "\n".join([*lines, "hours are estimated for GPUs only: add hardware=gpu; a dry run needs no GPU"])
    mine, way = columns[m.name], int(h.activation_checkpointing)
    return "\n".join(
        [*lines, tabulate(hours(mine, way, h.precision, h.ranks), CARD_HEADER, disable_numparse=True), NOTE]
    )


def adapted_layers(kinds: dict[str, dict[str, int]], columns: dict[str, Estimate]) -> list[list[str]]:
    """A row for each kind of layer: how many layers are adapted, and their trainable parameters by method."""
    return [
        [kind, f"{counts['layers']:,}", *(f"{e.adapted[kind]['parameters']:,}" for e in columns.values())]
        for kind, counts in kinds.items()
    ]


UNKNOWN = "not known"
CHECKPOINTED = "with checkpointing"
CARD_HEADER = ("card", "memory", "peak TFLOPS", "hours", "fits")
NOTE = f"""
hours: FLOPs at {UTILISATION:.0%} of the card's peak TFLOPS (an assumption), without loading, evaluation and network.
fits: the peak is less than 90 % of the card's memory, or is less with activation checkpointing."""


def hours(estimate: Estimate, way: int, precision: str, devices: int) -> list[list[str]]:
    """A row for each card that computes in `precision`; `way` is 1 with activation checkpointing, else 0.

    Where a run fits with activation checkpointing alone, the hours are those with activation checkpointing.
    """
    rows = []
    for name, card in CARDS.items():
        speed: float | None = getattr(card, precision)
        if speed is None:
            continue
        room = 0.9 * card.memory * GIB
        fits = "yes" if estimate.peak[way] < room else CHECKPOINTED if estimate.peak[1] < room else "no"
        flops = estimate.flops[1 if fits == CHECKPOINTED else way]
        duration = flops / (speed * 1e12 * UTILISATION * devices) / 3600
        rows.append([name, f"{card.memory:g} GiB", f"{speed:g}", f"{duration:.3g}", fits])
    return rows
