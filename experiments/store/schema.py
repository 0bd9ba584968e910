"""What the file of a record may hold. Each record is checked when it is read, so its readers rely on all of this.

A record has the sections and the types of `Schema`; its numbers are finite and not too large for sums of squares; its
texts have no half characters and no control characters; its key is the hash of its identity, and its cell is that of
its identity. A finished run has a finite headline and a cost.

What a reader needs beyond that, such as the whole configuration for another scoring, that reader checks itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import tasks
from ..errors import ConfigError, one_line
from ..identity import key_of, model_of

VERSION = 2
LARGEST = 1e150  # the square of a larger number may overflow
DEEPEST = 40  # sections within sections
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # would move the cursor of a terminal, or worse
CONTROL_IN_JSON = (b"\\", b"\x7f", b"\xc2")  # without any of these bytes, JSON in UTF-8 has no control character

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Numbers = dict[str, Number | None]
Name = Annotated[str, Field(pattern=r"^[\w-]{1,100}$")]  # a part of the names of files
Settings = dict[str, Any]


class RecordSection(BaseModel):
    """A part of a record, in which further entries may stand."""

    model_config = ConfigDict(strict=True, extra="allow")


class CellSection(RecordSection):
    """`record.cell`."""

    method: Name
    rank: int | None
    operator: str | None
    task: Name
    scale: Name
    model: str
    learning_rate: Annotated[Number, Field(gt=0)] | None
    seed: Annotated[int, Field(ge=0)]


class Config(RecordSection):
    """`record.config`: the sections that are read."""

    method: Settings = {}
    task: Settings = {}
    training: Settings = {}
    hardware: Settings = {}


class PeftSettings(RecordSection):
    """`record.identity.method.peft`."""

    peft_type: str


class IdentityMethod(RecordSection):
    """`record.identity.method`."""

    peft: PeftSettings | None = None


class Identity(RecordSection):
    """`record.identity`."""

    method: IdentityMethod
    task: Settings
    training: Settings
    hardware: Settings
    scale: str
    seed: int
    model: str | None = None


class Metrics(RecordSection):
    """`record.metrics`."""

    final: Numbers
    curve: list[Numbers]
    spectrum: dict[str, Numbers] = {}


class AddedScores(RecordSection):
    """An entry of `record.provenance.added`: scores that the run did not measure."""

    scores: list[str]


class Provenance(RecordSection):
    """`record.provenance`."""

    added: list[AddedScores] = []


class Error(RecordSection):
    """`record.error`."""

    __pydantic_extra__: dict[str, str]
    type: str
    message: str


class Schema(BaseModel):
    """A record of `VERSION`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: Annotated[Literal[2], Field(alias="schema")]
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    name: Annotated[str, Field(max_length=1000, pattern=r"^[^\r\n]*$")]
    status: Literal["running", "finished", "failed", "interrupted"]
    cell: CellSection
    config: Config
    identity: Identity
    metrics: Metrics
    cost: Numbers
    provenance: Provenance
    error: Error | None


def checked(text: bytes) -> dict[str, Any]:
    """The values in the file of a record.

    Raises:
        ValueError: The file holds no record, or a record of another version. The message is one line.
    """
    values = pydantic_core.from_json(text, allow_inf_nan=False)
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    if (version := values.get("schema")) != VERSION:
        known = json.dumps(version)[:20] if isinstance(version, int | str) else "none"
        raise ValueError(f"schema {known}, this version reads {VERSION} (scripts/migrate_records.py migrates 1 to 2)")
    _check_numbers(_without_curve(values))
    if any(mark in text for mark in CONTROL_IN_JSON):
        _check_texts(values, "record")
    try:
        Schema.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    _check_curve(values["metrics"]["curve"])
    _check_identity(values)
    if values["status"] == "finished":
        _check_finished(values)
    return values


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, on one line: where, and what must stand there."""
    first = error.errors(include_url=False, include_input=False)[0]
    return one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


def _without_curve(values: dict[str, Any]) -> dict[str, Any]:
    """The record without its curve: the most numbers stand there, and `Schema` checks them faster."""
    metrics = values.get("metrics")
    if not isinstance(metrics, dict):
        return values
    return values | {"metrics": {name: part for name, part in metrics.items() if name != "curve"}}


def is_number(value: Any) -> bool:
    """Whether a value is a number that a record may hold."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def _check_numbers(values: dict[str, Any]) -> None:
    """Check the numbers of a record, level by level: a recursion takes three times as long."""
    level: list[Any] = [values]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for section in level:
            for part in section.values() if type(section) is dict else section:
                kind = type(part)
                if kind is dict or kind is list:
                    below.append(part)
                elif (kind is float or kind is int) and not -LARGEST <= part <= LARGEST:
                    raise ValueError(one_line(f"{_name(part, section)}: a number beyond {LARGEST:g}"))
        if not below:
            return
        level = below
    raise ValueError(f"it has more than {DEEPEST} sections within one another")


def _name(value: Any, section: dict[str, Any] | list[Any]) -> str | int:
    """The name of a value in its section, or its place in its list."""
    parts: Iterable[tuple[str | int, Any]] = section.items() if isinstance(section, dict) else enumerate(section)
    return next(name for name, part in parts if part is value)


def _check_texts(value: Any, where: str) -> None:
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            _check_texts(name, where)
            _check_texts(part, name if isinstance(name, str) else where)
    elif isinstance(value, str) and CONTROL.search(value):
        raise ValueError(one_line(f"{where}: a text with a control character"))


def _check_curve(rows: list[dict[str, Any]]) -> None:
    if not all(type(step := row.get("step")) is int and step >= 0 for row in rows):
        raise ValueError("a row of metrics.curve has no step")


def _check_identity(values: dict[str, Any]) -> None:
    """The key is the hash of the identity, and the cell says the same as the identity."""
    identity, cell = values["identity"], values["cell"]
    if key_of(identity) != values["key"]:
        raise ValueError(f"its key {values['key']} is not that of its identity, {key_of(identity)}")
    said = {
        "task": identity["task"].get("name"),
        "method": identity["method"].get("name"),
        "rank": identity["method"].get("rank"),
        "learning_rate": identity["training"].get("learning_rate"),
        "model": None if identity.get("model") is None else model_of(identity["model"]),
        "operator": _operator(values),
        "scale": identity["scale"],
        "seed": identity["seed"],
    }
    for name, value in said.items():
        if value is not None and value != cell[name]:
            raise ValueError(one_line(f"cell.{name} is {cell[name]!r}, and its identity says {value!r}"))


def _operator(values: dict[str, Any]) -> Any:
    """The operator in the identity; None where the identity has no operator.

    An earlier version wrote the operator of the method's file, `config.method.operator`, into the cell, although
    `method.peft.operator` can be set alone. A record of that version stays valid.
    """
    operator = (values["identity"]["method"].get("peft") or {}).get("operator")
    of_file = values["config"].get("method", {}).get("operator")
    return of_file if operator is None or of_file == values["cell"]["operator"] else operator


def _check_finished(values: dict[str, Any]) -> None:
    final, cost = values["metrics"]["final"], values["cost"]
    headlines = _headlines(values)
    held = [name for name in headlines if name in final]
    if headlines and not held:
        raise ValueError(f"its run is finished, and metrics.final has no {' and no '.join(headlines)}")
    for name in held:
        if final[name] is None:
            raise ValueError(f"its run is finished, and {name} is no finite number")
    for name in ("trainable_parameters", "seconds"):
        if cost.get(name) is None:
            raise ValueError(f"its run is finished, and cost.{name} is missing")


def _headlines(values: dict[str, Any]) -> tuple[str, ...]:
    """The headlines of a record's task; none where this process does not know the task."""
    if "module" in values["identity"]["task"]:  # a user's file says what the headline is, and the file is not run
        return ()
    try:
        return tasks.get(values["cell"]["task"]).headlines
    except ConfigError:  # the task may not be here any more
        return ()
