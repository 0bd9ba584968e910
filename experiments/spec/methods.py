"""What the files of `conf/method/` say about methods, without composing a run."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from . import compose


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
    inherited = [e for e in settings(name).get("defaults", []) if isinstance(e, str) and e in names() and e != name]
    return [name, *(further for entry in inherited for further in chain(entry))]


def settings(name: str) -> dict[str, Any]:
    """The settings of a method's own file, without those of the file that it inherits from."""
    path = compose.choices("method").get(name)
    return compose.file_settings(path) if path else {}
