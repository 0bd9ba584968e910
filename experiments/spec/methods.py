"""What the files of `conf/method/` say about methods, without composing a run."""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import dataclass
from typing import Any

from .. import user_code
from ..errors import ConfigError
from . import compose

_registered: dict[str, str] = {}  # PEFT's name of an adapter -> the hash of the user's file that registered it


@dataclass(frozen=True)
class Notes:
    """What a method's file says about the method to a reader.

    Attributes:
        summary: What the method does, in a line: the first sentence of the comment above the settings.
        formula: The setting `formula` of the file, such as `dW = B A`; empty without it.
        paper: The paper that the comment names, such as `arXiv 2106.09685`; empty where it names none.
    """

    summary: str
    formula: str
    paper: str


def notes(name: str) -> Notes:
    """What the file of a method says about the method. Nothing is inherited from another file.

    Raises:
        OSError: The file cannot be read.
    """
    text = compose.choices("method")[name].read_text(encoding="utf-8")
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    sentence = re.split(r"(?<=[.!?])\s", comment, maxsplit=1)[0]
    paper = re.search(r"arXiv \d{4}\.\d{4,5}", comment)
    formula = str(settings(name).get("formula", ""))
    return Notes(sentence, formula, paper[0] if paper else "")


def names() -> tuple[str, ...]:
    """All methods, in the order of the alphabet."""
    return tuple(compose.choices("method"))


def label(name: str) -> str:
    """What tables and figures call a method; the method's own name if its file is gone."""
    return str(settings(name).get("label", name))


def looks(name: str) -> dict[str, int]:
    """Rank of the paper, such as `r256`, or `any` -> the look of the method's series in figures."""
    return dict(settings(name).get("looks") or {})


def has(name: str, setting: str) -> bool:
    """Whether a method has a setting such as `rank`, in its own file or in one that it inherits from."""
    return any(setting in settings(entry) for entry in chain(name))


def chain(name: str) -> list[str]:
    """The method, and the methods from whose files its own file inherits."""
    listed = [entry for entry in settings(name).get("defaults", []) if isinstance(entry, str) and entry != name]
    inherited = [entry for entry in listed if compose.file_of("method", entry)]
    return [name, *(further for entry in inherited for further in chain(entry))]


def add(path: str) -> None:
    """Run a user's Python file, which registers an adapter with PEFT. The command line must name the file.

    Raises:
        ConfigError: The file cannot be run, or registers nothing.
    """
    _, sha256 = user_code.load(path, "method.module")
    # A file that registers an adapter has imported PEFT; for a task of the user nothing heavy is imported here.
    mapping: Any = sys.modules.get("peft.mapping")
    configs = mapping.PEFT_TYPE_TO_CONFIG_MAPPING if mapping else {}
    new = {str(kind.value) for kind, config in configs.items() if is_of_a_user(config)} - _registered.keys()
    if not new and sha256 not in _registered.values():
        raise ConfigError(f"method.module={path} registers no new adapter with PEFT (peft.utils.register_peft_method)")
    _registered.update(dict.fromkeys(new, sha256))
    user_code.define(path, (kind for kind, registered in _registered.items() if registered == sha256))


def is_of_a_user(config: type) -> bool:
    """Whether a configuration class is neither of PEFT nor of this project."""
    return config.__module__.partition(".")[0] not in ("peft", "mora")


def module_hash(peft_type: Any) -> str | None:
    """The hash of the user's file that registered an adapter; None for an adapter of PEFT or of this project."""
    return _registered[peft_type][:16] if peft_type in _registered else None


def settings(name: str) -> dict[str, Any]:
    """The settings of a method's own file, without those of the file that it inherits from."""
    path = compose.file_of("method", name)
    return compose.file_settings(path) if path else {}
