"""A dry run: what a run would need and cost, as text for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from .. import tasks
from ..spec.protocol import borrowed
from ..spec.run_config import RunConfig
from . import ratios
from .cards import CARDS, UTILISATION
from .needs import Estimate, estimate, lora_of

GIB = 2**30
UNKNOWN = "not known"
CHECKPOINTED = "with checkpointing"
CARD_HEADER = ("card", "memory", "peak TFLOPS", "hours", "fits")
NOTE = f"""
hours: FLOPs at {UTILISATION:.0%} of the card's peak TFLOPS (an assumption), without loading, evaluation and network.
fits: the peak is less than 90 % of the card's memory, or is less with activation checkpointing."""


def table(config: RunConfig) -> str:
    """The estimate for a run, with the estimate for LoRA at the same rank beside it."""
    row_tokens = tasks.of(config).row_tokens(config)  # refuses a wrong file before anything heavy is imported

    from ..train.trainer import quiet

    quiet()
    method = config.method
    columns = {method.name: estimate(config)}
    if method.rank is not None and method.name != "lora":
        columns["lora"] = estimate(config.replace(method=lora_of(method)))
    mine = columns[method.name]
    notes = dict.fromkeys([*borrowed(config), *(note for e in columns.values() for note in e.notes)])
    parts = [
        heading(config, row_tokens),
        grid(numbers(columns.values()), ("", *columns), right=len(columns)),
        grid(
            adapted_layers(mine.adapted, columns), ("adapted layers", "layers", *(f"parameters, {n}" for n in columns))
        ),
        "\n".join(f"note: {note}" for note in notes),
        ratio_table(config),
        cost_table(config, mine),
    ]
    return "\n\n".join(filter(None, parts))


def grid(rows: Sequence[Sequence[str]], header: Sequence[str], right: int = 0) -> str:
    """Rows below a header, the last `right` columns aligned to the right; empty without rows."""
    from tabulate import tabulate

    if not rows:
        return ""
    align = [*("left" for _ in header[right:]), *("right" for _ in range(right))]
    return tabulate(rows, header, disable_numparse=True, colalign=align)


def heading(config: RunConfig, row_tokens: int) -> str:
    """The name of the run, the model, the steps and the devices."""
    from ..identity import name_of

    h, t = config.hardware, config.training
    base = config.quantization if config.quantization != "none" else "not quantized"
    devices = f"{h.ranks} device{'s' if h.ranks > 1 else ''} ({h.device}) in {h.precision}"
    return (
        f"dry run of {name_of(config)}: {config.model}, base weights {base}\n"
        f"{t.steps:,} steps of {t.batch_size} rows of at most {row_tokens} tokens on {devices}, {config.device_batch} "
        "rows at a time; memory is that of one device"
    )


def numbers(estimates: Iterable[Estimate]) -> list[list[str]]:
    """A row for each number, with a column for each estimate."""
    estimates = list(estimates)

    def row(what: str, of: Callable[[Estimate], str]) -> list[str]:
        return [what, *map(of, estimates)]

    def gib(what: str, of: Callable[[Estimate], float]) -> list[str]:
        return row(what, lambda e: UNKNOWN if math.isnan(of(e)) else f"{of(e) / GIB:.2f} GiB")

    def flops(what: str, way: int) -> list[str]:
        return row(what, lambda e: UNKNOWN if math.isnan(e.flops[way]) else f"{e.flops[way]:.3g}")

    return [
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


def adapted_layers(kinds: dict[str, dict[str, int]], columns: dict[str, Estimate]) -> list[list[str]]:
    """A row for each kind of layer: how many layers are adapted, and their trainable parameters by method."""
    return [
        [kind, f"{counts['layers']:,}", *(f"{e.adapted[kind]['parameters']:,}" for e in columns.values())]
        for kind, counts in kinds.items()
    ]


def ratio_table(config: RunConfig) -> str:
    """The ratios of the run beside those of the paper; empty where the task has no ratios."""
    rows = [
        [r.name, ratios.text(r.value), "-" if r.paper is None else ratios.text(r.paper)]
        for r in ratios.beside_paper(config)
    ]
    paper = ratios.paper_run(config)
    return grid(rows, ("ratio", "this run", f"the paper's, on {paper.model}" if paper else "the paper's"))


def cost_table(config: RunConfig, needs: Estimate) -> str:
    """The hours on some GPUs, and whether the run fits them; empty where the FLOPs are not known."""
    h = config.hardware
    if math.isnan(needs.flops[0]):
        return ""
    if h.device == "cpu":
        return "hours are estimated for GPUs only: add hardware=gpu; a dry run needs no GPU"
    return f"{grid(hours(needs, int(h.activation_checkpointing), h.precision, h.ranks), CARD_HEADER)}\n{NOTE}"


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
