"""How a method spends its budget: the trainable parameters of the LoRA whose rank is `method.rank`.

A method's file names the setting of PEFT that spends the budget (`budget: r`). The value of the setting is found by
counting: PEFT adapts one layer of each size without memory for weights, and the value that trains the most parameters
without training more than the budget is taken. No formula is needed, so any method of PEFT can have a budget.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model
from torch import nn

from .. import files
from ..errors import ConfigError, reason_of
from ..spec.run_config import Method
from ..spec.shapes import lora_parameters
from ..spec.skeletons import silent

Sizes = Counter[tuple[int, int]]  # (in_features, out_features) -> how many adapted layers have this size
# What PEFT raises for a value that does not fit a layer.
UNFIT = (ConfigError, ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError, IndexError)


def spent(
    method: Method, sizes: Iterable[tuple[int, int]], configure: Callable[[Method], PeftConfig], cache: Path
) -> Method:
    """The method with the setting of its budget filled in.

    Args:
        method: The method; `method.budget` names a setting of `method.peft`.
        sizes: (in_features, out_features) of each adapted layer.
        configure: Gives the configuration of PEFT for a method.
        cache: The folder in which values are kept, so that the next process need not count.

    Raises:
        ConfigError: Every value trains more parameters than the budget, or PEFT takes no value.
    """
    peft, name, rank, count = method.peft or {}, method.budget, method.rank, Counter(sizes)
    if name is None or rank is None or name in peft:  # the command line may set the value itself
        return method
    limit = lora_parameters(rank, count.elements())
    where = _file(method, limit, count, cache)
    value = _kept(where)
    if value is None:
        numbers, step = Numbers(method, count, configure), method.budget_step or 1
        steps = largest(lambda steps: numbers.of(steps * step), limit, count)
        if steps is None:
            raise _too_small(method, limit, count, numbers)
        value = steps * step
        with contextlib.suppress(OSError):  # without the file the next process counts again
            files.write_json(where, {"value": value})
    return _with(method, value)


def largest(counted: Callable[[int], int | None], limit: int, sizes: Sizes) -> int | None:
    """The value that trains the most parameters, and no more than `limit`; None where each trains more or does not fit.

    The parameters may grow or shrink with the value, and some values may not fit, such as a block that divides no
    layer. So a grid of values is counted first. Then the gap beside the best value is halved until nothing is between,
    and at last the value grows while the number does.
    """
    grid = _grid(limit, sizes)
    counts = {value: number for value in grid if (number := counted(value)) is not None}
    fitting = [value for value in counts if counts[value] <= limit]
    if not fitting:
        return None
    best = max(fitting, key=lambda value: (counts[value], -value))
    place = grid.index(best)
    for beside in (*grid[:place][-1:], *grid[place + 1 : place + 2]):
        if beside not in counts or counts[beside] <= limit:
            continue
        low, high = best, beside
        while abs(high - low) > 1:
            middle = (low + high) // 2
            number = counted(middle)
            if number is None:
                break
            if number <= limit:
                low = middle
            else:
                high = middle
        best = low
    while (number := counted(best + 1)) is not None and (counted(best) or 0) < number <= limit:
        best += 1
    return best


def _grid(limit: int, sizes: Sizes) -> list[int]:
    """Small numbers, powers of two, three times these, and what divides the sizes of layers."""
    dims = {dim for size in sizes for dim in size}
    top = max(*dims, 2 * limit // sizes.total())
    powers = [2**i for i in range(top.bit_length())]
    divisors = {n for dim in dims for n in range(1, math.isqrt(dim) + 1) if dim % n == 0}
    divisors |= {dim // n for dim in dims for n in divisors if dim % n == 0}
    return sorted({n for n in (*range(1, 9), *powers, *(3 * n for n in powers), *divisors) if n <= top})


class Numbers:
    """How many parameters a method trains on layers of these sizes, for values of the setting of its budget.

    Attributes:
        known: Value -> the number of parameters; None where PEFT refuses the value.
        reason: Why PEFT refused the last value that it refused.
    """

    def __init__(self, method: Method, sizes: Sizes, configure: Callable[[Method], PeftConfig]) -> None:
        self.method, self.sizes, self.configure = method, sizes, configure
        self.known: dict[int, int | None] = {}
        self.reason = ""

    def of(self, value: int) -> int | None:
        """The number of parameters for a value; None where PEFT refuses the value."""
        if self.method.budget_most is not None and value > self.method.budget_most:
            return None
        if value not in self.known:
            try:
                self.known[value] = trainable(_with(self.method, value), self.sizes, self.configure)
            except UNFIT as error:
                self.known[value], self.reason = None, reason_of(error)
        return self.known[value]


def trainable(method: Method, sizes: Sizes, configure: Callable[[Method], PeftConfig]) -> int:
    """How many parameters the method trains on layers of these sizes.

    PEFT adapts one layer of each size. What PEFT trains outside the layers, for all of them together, counts once.

    Raises:
        UNFIT: PEFT cannot adapt such layers.
    """
    names = {f"layer{i}": size for i, size in enumerate(sizes)}
    config = configure(method.replace(peft=(method.peft or {}) | {"target_modules": list(names), "task_type": None}))
    try:
        model = _adapted(config, names, "meta")
    except RuntimeError:  # some methods need numbers, which the meta device does not have
        model = _adapted(config, names, "cpu")
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[name.removeprefix("base_model.model.").split(".")[0]] += parameter.numel()
    return sum(number * sizes.get(names.get(name, (0, 0)), 1) for name, number in counts.items())


def _adapted(config: PeftConfig, names: dict[str, tuple[int, int]], device: str) -> nn.Module:
    with silent(), warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")  # the run itself warns once, and not for each value
        model = nn.Sequential()
        for name, (k, d) in names.items():
            model.add_module(name, nn.Linear(k, d, bias=False))
        return get_peft_model(model, config)


def _with(method: Method, value: int) -> Method:
    assert method.budget is not None
    return method.replace(peft=(method.peft or {}) | {method.budget: value})


def _too_small(method: Method, limit: int, sizes: Sizes, numbers: Numbers) -> ConfigError:
    counts = {value: number for value, number in numbers.known.items() if number is not None}
    what = f"method={method.name}: method.peft.{method.budget}"
    if not counts:
        return ConfigError(f"{what} has no value that fits the layers of the model: {numbers.reason}")
    value = min(counts, key=lambda value: counts[value])
    per_rank = lora_parameters(1, sizes.elements())
    return ConfigError(
        f"{what} trains at least {counts[value]:,} parameters, at {value}, and a LoRA of rank {method.rank} trains "
        f"{limit:,}; allowed: method.rank={math.ceil(counts[value] / per_rank)} or more"
    )


def _file(method: Method, limit: int, sizes: Sizes, cache: Path) -> Path:
    """Where a value is kept. Another version of PEFT may count in another way."""
    peft = {name: value for name, value in (method.peft or {}).items() if name != "target_modules"}
    asked = [method.budget, method.budget_step, method.budget_most, peft, limit, sorted(sizes.items())]
    text = json.dumps(asked, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache / "budgets" / f"v1-{importlib.metadata.version('peft')}-{digest}.json"


def _kept(path: Path) -> int | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["value"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) and value > 0 else None
