"""Which layers of a model a run adapts: `method.target_modules`, applied to the names of the model's linear layers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from .run_config import RunConfig

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Targets:
    """The layers that a run adapts.

    Attributes:
        layers: The names of the layers, in the order of the model.
        note: What a reader of the record has to know about the choice; empty if the choice is what the run asked for.
    """

    layers: tuple[str, ...]
    note: str = ""


def of(
    config: RunConfig, linears: Mapping[str, tuple[int, int]], head: str | None, uncalled: Collection[str] = ()
) -> Targets:
    """The layers that `config.method.targets` names.

    The targets of a protocol are the names of LLaMA's projections. A model that lacks one of these names gets
    `all-linear` instead, and a note says so. Targets that the command line sets are never changed.

    Args:
        config: The run; its method has targets.
        linears: The linear layers of the model: name -> (in_features, out_features).
        head: The name of the linear layer that gives the logits.
        uncalled: The layers on which an adapter would have no effect; `all-linear` leaves them out.

    Raises:
        ConfigError: A target is no linear layer of the model, or an adapter on it would have no effect.
    """
    asked, note = config.method.targets, ""
    assert asked is not None
    missing = [] if isinstance(asked, str) else [t for t in asked if not any(_named(name, t) for name in linears)]
    if missing:
        if asked != config.protocol.get("target_modules"):
            raise _unknown(missing[0], config, linears)
        asked = ALL_LINEAR
    if asked == ALL_LINEAR:
        layers = [name for name in linears if name != head and name not in uncalled]
    elif isinstance(asked, str):
        pattern = _pattern(asked)
        layers = [name for name in linears if pattern.fullmatch(name)]
    else:
        layers = [name for name in linears if any(_named(name, target) for target in asked)]
    if not layers:
        raise _unknown(str(asked), config, linears)
    if without := kinds(name for name in layers if name in uncalled):
        raise ConfigError(
            f"method.target_modules: {config.model} reads the weights of {', '.join(without)} without calling these "
            f"layers, so an adapter would have no effect; allowed: {ALL_LINEAR}, or a list of "
            f"{', '.join(kind for kind in kinds(linears) if kind not in without)}"
        )
    if missing:
        note = (
            f"the model has no linear layer {', '.join(missing)}, which the protocol names: all its linear layers are "
            f"adapted in place of these, as with method.target_modules={ALL_LINEAR}: {', '.join(kinds(layers))}"
        )
    return Targets(tuple(layers), note)


def kind(name: str) -> str:
    """What the layers of a kind have in common: the last part of the name that is no number."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), name)


def kinds(names: Iterable[str]) -> list[str]:
    """The kinds of these layers, each once, in the order of the model."""
    return list(dict.fromkeys(map(kind, names)))


def shortest(layers: Iterable[str], all_names: Iterable[str]) -> list[str]:
    """Target names for PEFT that stand for exactly these layers: their kinds, where no other module has such a name."""
    chosen = list(layers)
    short, others = kinds(chosen), set(all_names) - set(chosen)
    exact = not any(_named(other, name) for other in others for name in short)
    return short if exact and all(any(_named(layer, name) for name in short) for layer in chosen) else chosen


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # a later Python will read the expression in another way
            return re.compile(text)
    except (re.error, RecursionError, OverflowError, FutureWarning) as error:
        raise ConfigError(
            f"method.target_modules must be {ALL_LINEAR}, a list of names or a regular expression, "
            f"got {text!r} ({error})"
        ) from None


def _unknown(target: str, config: RunConfig, linears: Mapping[str, tuple[int, int]]) -> ConfigError:
    names = kinds(linears)
    expression = f", or a regular expression for whole names such as '.*{names[0]}'" if names else ""
    return ConfigError(
        f"method.target_modules: {config.model} has no linear layer {target!r}; "
        f"allowed: {ALL_LINEAR}, a list of {', '.join(names)}{expression}"
    )
