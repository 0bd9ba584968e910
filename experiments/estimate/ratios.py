"""The ratios that a smaller scale keeps from the paper: rank and width, parameters and facts, steps and epochs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mora.operators import square_size

from .. import tasks
from ..spec import protocol, shapes, target_modules
from ..spec.compose import choices, composition
from ..spec.parse import typed
from ..spec.run_config import RunConfig
from ..train import scratch

PAPER = "paper"


@dataclass(frozen=True)
class Ratio:
    """A ratio of a run, and the same ratio of the paper's run.

    Attributes:
        name: What is divided by what.
        value: The ratio of the run.
        paper: The ratio of the run at paper scale; None where the paper's protocol does not have this ratio.
    """

    name: str
    value: float
    paper: float | None = None


def of(config: RunConfig) -> dict[str, float]:
    """The ratios of a run by name: those of its adapter, of its restarts, and of its task.

    A run without a rank has no ratios of an adapter. The shapes of the model must be known without loading the model.
    """
    ratios: dict[str, float] = {}
    m, t, shape = config.method, config.training, shapes.at_hand(config.model, config.paths.cache_folder)
    if m.rank is not None and shape and m.targets:
        layers = [shape.linears[n] for n in target_modules.of(config, shape.linears, shape.head, shape.uncalled).layers]
        parameters = shapes.lora_parameters(m.rank, layers)
        ratios["rank / width"] = m.rank / shape.hidden
        ratios["r_hat / width"] = square_size(shape.hidden, shape.hidden, m.rank) / shape.hidden
        ratios["r_hat / rank"] = square_size(shape.hidden, shape.hidden, m.rank) / m.rank
        ratios["adapter / adapted weights"] = parameters / sum(k * d for k, d in layers)
        if (alpha := m.setting("alpha")) is not None:
            ratios["alpha / rank"] = alpha / m.rank
        ratios |= tasks.of(config).ratios(config, parameters)
    elif shape:
        ratios |= tasks.of(config).ratios(config, shape.parameters)
    if m.restart_every:
        ratios["cycles of restarts"] = t.steps / m.restart_every
    ratios["warm-up / steps"] = t.warmup_steps / t.steps
    return ratios


def paper_run(config: RunConfig) -> RunConfig | None:
    """The run of the same method at paper scale and the rank that this rank stands for; None where there is none.

    It has the model of the paper's protocol, or that of this run where this run has another model of the paper.
    """
    m, name = config.method, protocol.paper_rank(config.protocol.get("ranks", {}), config.method.rank)
    if f"{config.task.name}_{PAPER}" not in choices("protocol") or (m.rank is not None and name is None):
        return None
    rank = [f"method.rank={protocol.rank_number(name)}"] if name else []
    model = [f"model={config.model}"] if config.model in scratch.PAPER else []
    return _composed(m.name, config.task.name, PAPER, *rank, *model)


def beside_paper(config: RunConfig) -> list[Ratio]:
    """The ratios of a run, beside those of `paper_run`."""
    paper = of(run) if (run := paper_run(config)) else {}
    return [Ratio(ratio, value, paper.get(ratio)) for ratio, value in of(config).items()]


def lines(task: str, scales: list[str]) -> list[list[str]]:
    """The ratios of LoRA and ReLoRA on a task as lines of text: name, the paper's rank, then the value at each scale.

    A ratio that is the same at every rank has one line.
    """
    values: dict[str, dict[str, dict[str, float]]] = {}  # name of the ratio -> the paper's rank -> scale -> ratio
    for scale in scales:
        ranks = _composed("lora", task, scale).protocol["ranks"]
        for name in sorted(ranks, key=protocol.rank_number):
            for ratio, value in of(_composed("relora", task, scale, f"method.rank={ranks[name]}")).items():
                values.setdefault(ratio, {}).setdefault(name, {})[scale] = value
    rows = []
    for ratio, by_rank in values.items():
        texts = {name: [text(at[s]) if s in at else "-" for s in scales] for name, at in by_rank.items()}
        alike = len(set(map(tuple, texts.values()))) == 1
        for name, values_at in list(texts.items())[: 1 if alike else None]:
            rows.append([ratio, "any" if alike else name.replace("r", "r = "), *values_at])
    return rows


@cache
def _composed(method: str, task: str, scale: str, *more: str) -> RunConfig:
    return typed(composition([f"method={method}", f"task={task}", f"scale={scale}", *more]))


def text(value: float) -> str:
    """`1/512` for a small ratio, else three significant digits."""
    return f"1/{1 / value:.4g}" if 0 < value < 0.2 else f"{value:.3g}"
