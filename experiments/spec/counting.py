"""The parameters that a method of PEFT trains, counted on layers without weights.

PEFT adapts one layer of each size without memory for weights. The value of a setting that trains the most parameters
without training more than a limit is found by counting for some values.
"""

from __future__ import annotations

import inspect
import itertools
import math
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_config, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

import mora  # noqa: F401  (registers MoRA with PEFT)

from ..errors import ConfigError, one_line, reason_of
from .methods import is_of_a_user
from .run_config import Method
from .shapes import lora_parameters, size_name
from .skeletons import silent

Sizes = Counter[tuple[int, int]]  # (in_features, out_features) -> how many adapted layers have this size


class SettingError(ConfigError):
    """PEFT knows no such method, or no such setting of the method: no value of the budget's setting can help."""


# What PEFT raises for a value that does not fit a layer.
UNFIT = (ConfigError, ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError, IndexError)


def settings(method: Method, limit: int, sizes: Sizes) -> dict[str, Any]:
    """The settings with which the method trains the most parameters, and no more than `limit`: name -> value.

    Raises:
        ConfigError: Each value trains more, or PEFT takes no value.
    """
    if _has_pattern(method):
        return _by_size(method, limit, sizes)
    counts = _choices(method, sizes)
    most, best = 0, None
    for numbers in counts:
        value = largest(numbers.of, limit, sizes)
        number = numbers.of(value) if value is not None else None
        if value is not None and number is not None and number > most:
            most, best = number, numbers.settings(value)
    if best is None:
        raise ConfigError(_reason(method, limit, sizes, counts))
    return best


def misfit(method: Method, limit: int, sizes: Sizes) -> str:
    """Why no value trains at most `limit` parameters; empty where one does. Most methods need one count or two."""
    if _has_pattern(method):
        try:
            _by_size(method, limit, sizes)
        except ConfigError as error:
            return str(error)
        return ""
    counts, grid = _choices(method, sizes), _grid(limit, sizes)
    # The parameters grow with the value or shrink with it, so the ends of the grid come first.
    ends = list(dict.fromkeys(itertools.chain.from_iterable(zip(grid, reversed(grid), strict=True))))
    if any(_fits(numbers.of(value), limit) for value in ends for numbers in counts):
        return ""
    return _reason(method, limit, sizes, counts)


def _has_pattern(method: Method) -> bool:
    """Whether layers of each size may get a value of their own. The command line may set the pattern itself."""
    return method.budget_pattern is not None and not (method.peft or {}).get(method.budget_pattern)


def _by_size(method: Method, limit: int, sizes: Sizes) -> dict[str, Any]:
    """The settings with one value for each size of layers: the value that most layers get, and the pattern of all.

    The pattern is size -> value, with sizes as `shapes.size_name` names them. Every combination of the values is added
    up, so the method must train nothing outside the layers.
    """
    assert method.budget is not None
    assert method.budget_pattern is not None
    best: dict[int, dict[tuple[int, int], int]] = {0: {}}  # parameters -> the value of each size so far
    fewest, least = 0, {}
    for size, layers in sizes.items():
        numbers = Numbers(method, Counter([size]), {})
        counts = {value: number for value in _grid(limit, Counter([size])) if (number := numbers.of(value))}
        if not counts:
            raise ConfigError(_reason(method, limit, sizes, [numbers]))
        least[size] = min(counts, key=lambda value: (counts[value], value))
        fewest += layers * counts[least[size]]
        best = {
            total: {**values, size: value}
            for before, values in best.items()
            for value, number in counts.items()
            if (total := before + layers * number) <= limit
        }
    if not best:
        shown = " and ".join(f"{value} for layers of {size_name(size)}" for size, value in least.items())
        raise ConfigError(_too_many(method, limit, sizes, fewest, f"method.peft.{method.budget}={shown}"))
    values = best[max(best)]
    step = method.budget_step or 1
    return {
        method.budget: step
        * max(values.values(), key=lambda own: sum(sizes[s] for s, v in values.items() if v == own)),
        method.budget_pattern: {size_name(size): step * value for size, value in values.items()},
    }


def largest(counted: Callable[[int], int | None], limit: int, sizes: Sizes) -> int | None:
    """The value that trains the most parameters, and no more than `limit`; None where each trains more or does not fit.

    The parameters may grow or shrink with the value, and some values may not fit, such as a block that divides no
    layer. So a grid of values is counted first. Then the gap beside the best value is halved until nothing is between,
    and at last the value grows while the number does.
    """
    grid = _grid(limit, sizes)
    counts = {value: number for value in grid if (number := counted(value)) is not None}
    fitting = [value for value in counts if _fits(counts[value], limit)]
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


def _fits(number: int | None, limit: int) -> bool:
    """Whether a value trains something, and no more than `limit`."""
    return number is not None and 0 < number <= limit


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

    A value is counted in steps of `budget_step`.

    Attributes:
        known: Value -> the number of parameters; None where PEFT refuses the value.
        reason: Why PEFT refused the last value that it refused.
    """

    def __init__(self, method: Method, sizes: Sizes, chosen: dict[str, Any]) -> None:
        self.method, self.sizes, self.chosen = method, sizes, chosen
        self.known: dict[int, int | None] = {}
        self.reason = ""

    def settings(self, value: int) -> dict[str, Any]:
        """The settings of PEFT that a value stands for: name -> value."""
        assert self.method.budget is not None
        return {self.method.budget: value * (self.method.budget_step or 1), **self.chosen}

    def of(self, value: int) -> int | None:
        """The number of parameters for a value; None where PEFT refuses the value."""
        if value not in self.known:
            self.known[value] = self._count(value)
        return self.known[value]

    def _count(self, value: int) -> int | None:
        most, own = self.method.budget_most, self.settings(value)
        if most is not None and value * (self.method.budget_step or 1) > most:
            return None
        try:
            return trainable(self.method.replace(peft=(self.method.peft or {}) | own), self.sizes)
        except SettingError:
            raise
        except UNFIT as error:
            self.reason = reason_of(error)
            return None


def _choices(method: Method, sizes: Sizes) -> list[Numbers]:
    """The numbers for each choice of the settings that the method's file leaves open."""
    peft = method.peft or {}
    free = {name: values for name, values in (method.budget_choices or {}).items() if peft.get(name) is None}
    chosen: Iterator[tuple[Any, ...]] = itertools.product(*free.values())
    return [Numbers(method, sizes, dict(zip(free, values, strict=True))) for values in chosen]


def trainable(method: Method, sizes: Sizes) -> int:
    """How many parameters the method trains on layers of these sizes.

    PEFT adapts one layer of each size, and two where there are several. What PEFT trains outside the layers, for all of
    them together, counts once. Where layers share a parameter, PEFT adapts all layers.

    Raises:
        UNFIT: PEFT cannot adapt such layers.
    """
    model, names = _on_layers(method, sizes, 2)
    owners: dict[int, set[str]] = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            owners[id(parameter)].add(_layer_of(name))
    if any(len(layers & names.keys()) > 1 for layers in owners.values()):
        model, _ = _on_layers(method, sizes, max(sizes.values()))
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_layer_of(name)] += parameter.numel()
    stands_for = {name: sizes[size] / min(sizes[size], 2) for name, size in names.items()}
    return round(sum(number * stands_for.get(name, 1) for name, number in counts.items()))


def _layer_of(name: str) -> str:
    """The layer to which a parameter of `_on_layers` belongs, or another name where the parameter belongs to none."""
    return ".".join(name.removeprefix("base_model.model.").split(".")[:2])


def _on_layers(method: Method, sizes: Sizes, most: int) -> tuple[nn.Module, dict[str, tuple[int, int]]]:
    """A model with the method's adapter, with at most so many layers of each size; and layer -> size."""
    names = {f"{j}.layer{i}": size for i, (size, n) in enumerate(sizes.items()) for j in range(min(n, most))}
    config = adapter_config(
        method.replace(peft=(method.peft or {}) | {"target_modules": list(names), "task_type": None})
    )
    try:
        return _adapted(config, names, "meta"), names
    except RuntimeError:  # some methods need numbers, which the meta device does not have
        return _adapted(config, names, "cpu"), names


def adapter_config(method: Method) -> PeftConfig:
    """The configuration of PEFT that the `peft` section of a method is.

    Raises:
        ConfigError: A value is wrong; as SettingError: PEFT has no such method, or the method has no such setting.
    """
    values = {"task_type": "CAUSAL_LM", **(method.peft or {})}
    try:
        return get_peft_config(values)
    except KeyError:
        known = ", ".join(sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING))
        raise SettingError(
            f"method.peft.peft_type must be one of {known}, or yours with method.module=FILE, got "
            f"{values['peft_type']!r}"
        ) from None
    except (TypeError, ValueError) as error:
        text = f"method.peft of method={method.name}: {one_line(str(error))}"
        if "unexpected keyword" not in str(error):
            raise ConfigError(text) from error
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[values["peft_type"]]
        allowed = sorted(set(inspect.signature(kind).parameters) - {"self"})
        raise SettingError(f"{text}; allowed: {', '.join(allowed)}") from error


def is_of_a_release(method: Method) -> bool:
    """Whether the method is one of PEFT or of this project, which counts alike as long as PEFT's version is the same.

    The library of a user may change from one run to the next.
    """
    types: dict[Any, type] = {**PEFT_TYPE_TO_CONFIG_MAPPING}
    kind = types.get((method.peft or {}).get("peft_type"))
    return kind is not None and not is_of_a_user(kind)


def wrapped(model: Any, config: PeftConfig, **options: Any) -> PeftModel:
    """PEFT's model around `model`; the variables of the environment stay as they are.

    PEFT 0.21 sets the compiler to gcc before it builds code for GPUs, and leaves gcc set where the build fails. With
    gcc set, torch.compile fails in all later runs of the same sweep, because gcc links no C++.
    """
    before = dict(os.environ)
    try:
        return get_peft_model(model, config, **options)
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _adapted(config: PeftConfig, names: dict[str, tuple[int, int]], device: str) -> nn.Module:
    with silent(), warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")  # the run itself warns once, and not for each value
        model = nn.Sequential(*(nn.Sequential() for _ in {name.partition(".")[0] for name in names}))
        for name, (k, d) in names.items():
            block, _, layer = name.partition(".")
            model.get_submodule(block).add_module(layer, nn.Linear(k, d, bias=False))
        return wrapped(model, config)


def _reason(method: Method, limit: int, sizes: Sizes, counts: list[Numbers]) -> str:
    """Why no value fits, of those that were counted."""
    known = [(number, value, numbers) for numbers in counts for value, number in numbers.known.items() if number]
    if not known and any(number == 0 for numbers in counts for number in numbers.known.values()):
        return f"method={method.name}: its adapter trains no parameters"
    if not known:
        return (
            f"method={method.name}: method.peft.{method.budget} has no value that fits the layers of the model: "
            f"{counts[-1].reason}"
        )
    fewest, value, numbers = min(known, key=lambda entry: entry[:2])
    shown = " and ".join(f"method.peft.{name}={own}" for name, own in numbers.settings(value).items())
    return _too_many(method, limit, sizes, fewest, shown)


def _too_many(method: Method, limit: int, sizes: Sizes, fewest: int, shown: str) -> str:
    """The line about a method that trains too many parameters even with the settings `shown`."""
    per_rank = lora_parameters(1, sizes.elements())
    return (
        f"method={method.name} trains at least {fewest:,} parameters, with {shown}, and a LoRA of rank {method.rank} "
        f"trains {limit:,}; allowed: method.rank={math.ceil(fewest / per_rank)} or more"
    )
