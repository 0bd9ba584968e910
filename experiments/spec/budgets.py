"""How a method spends its budget: the trainable parameters of the LoRA whose rank is `method.rank`.

A method's file names the setting of PEFT that spends the budget (`budget: r`), and perhaps the values that other
settings may have (`budget_choices`). The values of these settings are found by counting (`counting`). No formula is
needed, so any method of PEFT can have a budget.

The answers are kept in the cache. A plan or a table that asks whether a method fits its budget needs no torch then.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError
from . import shapes, target_modules
from .run_config import Method, RunConfig

FORMAT = 5  # part of the names of the cache's files: raise it when a file has other entries


def is_open(method: Method) -> bool:
    """Whether the setting that spends the budget has no value yet. The command line may set the value itself."""
    return method.budget is not None and method.rank is not None and (method.peft or {}).get(method.budget) is None


def spent(method: Method, layers: Mapping[str, tuple[int, int]], cache: Path) -> Method:
    """The method with the settings of its budget filled in.

    Args:
        method: The method; `method.budget` names a setting of `method.peft`.
        layers: Name of each adapted layer -> (in_features, out_features).
        cache: The folder in which answers are kept, so that the next process need not count.

    Raises:
        ConfigError: Every value trains more parameters than the budget, or PEFT takes no value.
    """
    peft, sizes = method.peft or {}, list(layers.values())
    if not is_open(method):
        firsts = {name: values[0] for name, values in (method.budget_choices or {}).items() if peft.get(name) is None}
        return method.replace(peft=peft | firsts) if firsts else method
    _refuse_uncounted(method)
    limit, path = _limit(method, sizes), _file(method, sizes, cache)
    answer = _kept(path)
    if answer["reason"]:
        raise ConfigError(answer["reason"])
    if not answer["settings"]:
        from . import counting

        try:
            answer["settings"] = counting.settings(method, limit, Counter(sizes))
        except counting.SettingError:
            raise
        except ConfigError as error:
            _keep(method, path, {"reason": str(error)})
            raise
        _keep(method, path, answer)
    return method.replace(peft=peft | _by_name(method, answer["settings"], layers))


def misfit(run: RunConfig) -> str:
    """Why the method of a run cannot spend its budget on the model; empty where the method can.

    Empty too where the shape of the model is not known yet, and where a setting is wrong: run.py says that.
    """
    shape = shapes.at_hand(run.model, run.paths.cache_folder)
    if shape is None or run.method.targets is None or not is_open(run.method):
        return ""
    try:
        _refuse_uncounted(run.method)
        layers = target_modules.of(run, shape.linears, shape.head, shape.uncalled).layers
    except ConfigError:
        return ""
    sizes = [shape.linears[name] for name in layers]
    path = _file(run.method, sizes, run.paths.cache_folder)
    answer = _kept(path)
    if answer["reason"] is None:
        from . import counting

        try:
            answer["reason"] = counting.misfit(run.method, _limit(run.method, sizes), Counter(sizes))
        except counting.SettingError:
            return ""
        _keep(run.method, path, answer)
    return str(answer["reason"])


# Settings of PEFT by which single layers are left out, or get another value: the budget counts all layers alike.
SINGLE_LAYERS = ("layers_to_transform", "layers_pattern", "exclude_modules", "rank_pattern")


def _refuse_uncounted(method: Method) -> None:
    """Refuse a budget whose parameters would be counted wrong.

    Raises:
        ConfigError: A setting changes single layers.
    """
    for name in SINGLE_LAYERS:
        if name != method.budget_pattern and (method.peft or {}).get(name):
            raise ConfigError(
                f"method={method.name}: method.peft.{name} changes single layers, and a budget counts all of "
                f"method.target_modules alike; allowed: other target_modules, or a value of your own: "
                f"+method.peft.{method.budget}=..."
            )


def _by_name(method: Method, settings: dict[str, Any], layers: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The settings for PEFT: a pattern names the layers that get another value than the others.

    The last part of a name, such as `q_proj`, stands for all layers with this part where these are of one size.
    """
    if method.budget is None or method.budget_pattern not in settings:
        return settings
    common = settings[method.budget]
    values = {name: settings[method.budget_pattern][shapes.size_name(size)] for name, size in layers.items()}
    sizes: dict[str, set[tuple[int, int]]] = {}
    for name, size in layers.items():
        sizes.setdefault(_last(name), set()).add(size)
    pattern = {
        _last(name) if len(sizes[_last(name)]) == 1 else name: value
        for name, value in values.items()
        if value != common
    }
    return {**settings, str(method.budget_pattern): pattern}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _limit(method: Method, sizes: list[tuple[int, int]]) -> int:
    assert method.rank is not None
    return shapes.lora_parameters(method.rank, sizes)


def _file(method: Method, sizes: list[tuple[int, int]], cache: Path) -> Path:
    """Where an answer is kept. Another version of PEFT may count in another way."""
    peft = {name: value for name, value in (method.peft or {}).items() if name != "target_modules"}
    asked = [method.budget, method.budget_step, method.budget_most, method.budget_choices, method.budget_pattern, peft]
    text = json.dumps([*asked, method.name, method.rank, sorted(Counter(sizes).items())], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache / "budgets" / f"v{FORMAT}-{importlib.metadata.version('peft')}-{digest}.json"


def _keep(method: Method, path: Path, answer: dict[str, Any]) -> None:
    from . import counting

    if not counting.is_of_a_release(method):
        return
    with contextlib.suppress(OSError):  # without the file the next process counts again
        files.write_summed(path, answer)


def _kept(path: Path) -> dict[str, Any]:
    """The answer that is kept: `settings` by name, or None where they were not asked for; `reason`, or None.

    The reason says why no value fits; it is empty where a value fits, and None where nobody has asked yet.
    """
    answer = files.read_summed(path) or {}
    settings = answer.get("settings")
    return {"settings": settings, "reason": "" if settings else answer.get("reason")}
