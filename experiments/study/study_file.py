"""Reads the file of a study (`conf/study/<name>.yaml`), and writes one.

    title: Support tickets, Qwen3-0.6B
    base: {task: custom, scale: workstation, model: /models/qwen3-0.6b, task.train_file: tickets.jsonl}
    rows:
      LoRA: {method: lora}
      MoRA: {method: mora}
      "LoRA, alpha = r": {method: lora, method.alpha: "${method.rank}"}
    ranks: [8, 64]
    search: {training.learning_rate: bracket}
    seeds: 3
    reference: LoRA
    columns: [heldout_loss, gsm8k]

`base`, rows and columns hold arguments of run.py. A rank is a number, or `r8` for the rank that stands for the paper's
8 at the scale.
"""

from __future__ import annotations

import copy
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .. import files, tasks
from ..errors import ConfigError, one_line, without_path
from ..identity import RATE, key_of
from ..paper import published
from ..spec import compose, methods, scales
from ..spec.protocol import rank_number
from ..spec.run_config import TaskSettings
from .layout import FIGURES, OF_A_CELL, TRAINING_LOSS, Column, Row, Search, Study, metric_columns, published_in

BRACKET = "bracket"
NAME = re.compile(r"[\w-]{1,100}", re.ASCII)
MOST_SEEDS = 1000
FOLDER = "studies"  # in a folder of results: the studies that belong to these results
# What a study does not say: the script does.
CHOSEN = ("seed", "scale", "dry_run", "paths.results", "task.module", "method.module")
# The settings that a study reads by name, whatever sign stands in front of the name.
READ_BY_NAME = ("model", "method.operator", "method.rank", RATE)

OWN_FILES = "for files of yours: --config-dir DIR, --task-module FILE, --method-module FILE"

Settings = dict[str, Any]
PAPERS_RANK = r"r[1-9]\d*"


def _rank(value: Any) -> int | str:
    if type(value) is int and value > 0:
        return value
    if isinstance(value, str) and re.fullmatch(PAPERS_RANK, value):
        return value
    raise PydanticCustomError("rank", "must be a positive integer, or a rank of the paper such as r8")


Rank = Annotated[int | str, PlainValidator(_rank)]  # one validator: an error of a union would name both types


def _without_signs(settings: Any) -> Any:
    """The settings with `method.rank` in place of `++method.rank`, and so on for those that a study reads by name."""
    if not isinstance(settings, dict):
        return settings
    return {bare if (bare := str(n).lstrip("+")) in READ_BY_NAME else n: value for n, value in settings.items()}


class SettingsEntry(BaseModel):
    """An entry that holds arguments of run.py by name beside its own fields."""

    model_config = ConfigDict(extra="allow", strict=True)

    _without_signs = model_validator(mode="before")(_without_signs)


class RowEntry(SettingsEntry):
    """A row: arguments of run.py by name, and what is said about the row itself."""

    label: str | None = None  # `{rank}` stands for the rank; without a label: the row's name, and `, r = 8`
    ranks: list[Rank] | None = None  # in place of the study's
    scales: list[str] = []
    search: dict[str, Any] = {}  # in place of, or beside, the study's


class ColumnEntry(SettingsEntry):
    """A column: arguments of run.py by name, and what is said about the column itself."""

    metric: str | None = None  # else the column's own name
    label: str | None = None
    at: Annotated[float, Field(gt=0, le=1)] | None = None  # the part of the training at which a curve is read
    rank: Annotated[str, Field(pattern=f"^{PAPERS_RANK}$")] | None = None
    scales: list[str] = []
    ours: bool = False
    paper_model: str = ""


class StudyEntry(BaseModel):
    """What a study's file may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str = ""
    base: Annotated[Settings, BeforeValidator(_without_signs)] = {}
    rows: dict[str, RowEntry] | str  # a name: the rows, ranks and reference of another study
    ranks: list[Rank] = []
    search: dict[str, Any] = {}
    seeds: Annotated[int, Field(gt=0, le=MOST_SEEDS)] | list[Annotated[int, Field(ge=0)]] = 3
    reference: str | list[str] = []
    columns: list[str] | dict[str, ColumnEntry] = []
    curve: str = TRAINING_LOSS
    figures: list[str] = list(FIGURES[:3])
    notes: list[str] = []


def names() -> list[str]:
    """The studies of `conf/study` and of a user's own folders of configuration files."""
    return list(compose.choices("study"))


def get(name: str) -> Study:
    """The study of a name, or of the path of a file.

    Raises:
        ConfigError: There is no such study, or its file is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return read(Path(name))
    choices = compose.choices("study")
    if name not in choices:
        raise ConfigError(f"no study {name!r}; allowed: {', '.join(choices)}, or the path of a .yaml file")
    return read(choices[name])


def files_of(results: Path) -> dict[str, Path]:
    """Name -> the file of each study in a folder of results."""
    return {path.stem: path for path in sorted((results / FOLDER).glob("*.yaml"))}


def of_results(results: Path) -> list[Study]:
    """The studies whose files lie in a folder of results.

    A file that cannot be read does not stop the others, and is named in a warning: its method or its task may be of the
    user, whose files this command does not know.
    """
    return _readable(files_of(results).values())


def of_conf() -> list[Study]:
    """The studies of `conf/study` and of a user's own folders; a file that cannot be read is named in a warning."""
    return _readable(compose.choices("study").values())


def of_project() -> list[Study]:
    """The studies of `conf/study` alone."""
    return [read(path) for path in sorted((compose.CONF / "study").glob("*.yaml"))]


def _readable(paths: Iterable[Path]) -> list[Study]:
    studies = []
    for path in paths:
        try:
            studies.append(read(path))
        except ConfigError as error:
            _warn(f"{error}; the study is left out ({OWN_FILES})")
    return studies


@cache
def _warn(message: str) -> None:
    """Print a warning, once in a process."""
    print(f"warning: {message}", file=sys.stderr)


def read(path: Path) -> Study:
    """The study of a file.

    Raises:
        ConfigError: The file cannot be read, or holds what a study does not have; the line names the entry.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"study {path} cannot be read: {without_path(error)}") from None
    try:
        return _read(path.stem, text, str(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"study {path} is not YAML: {one_line(str(error))}") from None


@cache
def _read(name: str, text: str, where: str) -> Study:
    return of_entries(name, yaml.safe_load(text), where)


def of_entries(name: str, entries: Any, where: str = "") -> Study:
    """A study of what its file holds.

    Args:
        name: The name of the study.
        entries: The content of the file.
        where: What an error calls the file.

    Raises:
        ConfigError: An entry is wrong.
    """
    where = where or name
    if not NAME.fullmatch(name):
        raise ConfigError(f"a study's name has letters, digits, - and _ only, got {name!r}")
    if isinstance(entries, dict) and isinstance(entries.get("rows"), str):
        try:
            other = get(entries["rows"]).file
        except RecursionError:
            raise ConfigError(f"study {where}: rows: {entries['rows']} takes its own rows from this study") from None
        entries = {n: other[n] for n in ("ranks", "reference") if n in other} | entries | {"rows": other["rows"]}
    try:
        entry = StudyEntry.model_validate(entries)
    except ValidationError as error:
        raise ConfigError(f"study {where}: {_message(error)}") from None
    try:
        return published_in(_study(name, entry, dict(entries)))
    except ConfigError as error:
        raise ConfigError(f"study {where}: {error}") from None


NO_ENTRY = ("dict[", "list[", "function-", "constrained-")  # how the names of pydantic for parts of a type begin


def _message(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(NO_ENTRY))
    if first["type"] == "extra_forbidden":
        return f"{place} is not an entry of a study; allowed: {', '.join(StudyEntry.model_fields)}"
    if first["type"] == "missing":
        return f"{place} is missing"
    return f"{place or 'the file'}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}"


def _study(name: str, entry: StudyEntry, entries: dict[str, Any]) -> Study:
    _check_settings(entry)
    assert isinstance(entry.rows, dict)
    base = {n: v for n, v in entry.base.items() if n != "scale"}
    rows = _rows(entry.rows, base, entry.ranks)
    families = {row.family for row in rows}
    labels = Counter(row.label for row in rows)
    if twice := [row for row in rows if labels[row.label] > 1]:
        raise ConfigError(
            f"two rows are called {twice[0].label!r}: a rank such as r8 is called by the paper's rank, and 8 is the "
            "rank itself; give one kind of ranks, or each row a label"
        )
    references = [entry.reference] if isinstance(entry.reference, str) else entry.reference
    if not families.issuperset(references):
        raise ConfigError(f"reference must be a row ({', '.join(dict.fromkeys(r.family for r in rows))})")
    if unknown := [figure for figure in entry.figures if figure not in FIGURES]:
        raise ConfigError(f"figures has {unknown[0]!r}; allowed: {', '.join(FIGURES)}")
    return Study(
        name,
        entry.title or published.title(name) or name,
        rows,
        _columns(entry.columns, base),
        _scale(entry.base),
        _search(entry.search),
        _seeds(entry.seeds),
        tuple(references),
        entry.curve,
        tuple(entry.figures),
        tuple(entry.notes),
        entries,
    )


def _check_settings(entry: StudyEntry) -> None:
    """Refuse settings that a study does not decide, and values by which cells cannot be told apart."""
    parts: dict[str, Settings] = {"base": {n: v for n, v in entry.base.items() if n != "scale"}}
    for kind in ("rows", "columns"):
        if isinstance(entries := getattr(entry, kind), dict):
            parts |= {f"{kind}.{name}": part.model_extra or {} for name, part in entries.items()}
    for where, settings in parts.items():
        for name, value in settings.items():
            if name.lstrip("+") in CHOSEN:
                raise ConfigError(f"{where} sets {name}, which is not for a study's {where.partition('.')[0]} to set")
            if name in OF_A_CELL and not isinstance(value, str | None):
                raise ConfigError(f"{where}.{name} must be a text, got {value!r}")


def _scale(base: Settings) -> str:
    scale = base.get("scale", "")
    if scale and scale not in scales.names():
        raise ConfigError(f"base.scale must be one of {', '.join(scales.names())}, got {scale!r}")
    return str(scale)


def _seeds(seeds: int | list[int]) -> tuple[int, ...]:
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"seeds must be different numbers, got {list(chosen)}")
    return chosen


def _search(search: Mapping[str, Any], where: str = "") -> Search:
    listed = {}
    for setting, candidates in search.items():
        if isinstance(candidates, list) and candidates:
            listed[setting] = (
                tuple(sorted(_rate(c, where) for c in candidates))
                if setting == RATE
                else tuple(_candidate(c, f"{where}search.{setting}") for c in candidates)
            )
        elif candidates != BRACKET or setting != RATE:
            allowed = f"{BRACKET}, or a list of rates" if setting == RATE else "a list of values"
            raise ConfigError(f"{where}search.{setting} must be {allowed}, got {candidates!r}")
    return tuple(listed.items())


def _candidate(value: Any, where: str) -> Any:
    """A value that a search tries: lists as tuples, since cells are compared by what they search."""
    if isinstance(value, dict):
        raise ConfigError(f"{where} must hold values or lists of values, got {value!r}")
    return tuple(_candidate(part, where) for part in value) if isinstance(value, list) else value


def _rate(value: Any, where: str) -> float:
    try:  # YAML reads 1e-3 as a text
        rate = float(value)
    except (TypeError, ValueError):
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise ConfigError(f"{where}search.{RATE} must hold positive numbers, got {value!r}")
    return rate


def _rows(entries: dict[str, RowEntry], base: Settings, ranks: list[int | str]) -> tuple[Row, ...]:
    """The rows in the order of the file, but neighbours that have the study's ranks go rank by rank together."""
    rows: list[Row] = []
    chosen = {family: _ranks(family, entry, base, ranks) for family, entry in entries.items()}
    for _, group in itertools.groupby(entries, key=lambda family: family if entries[family].ranks else chosen[family]):
        families = list(group)
        own: list[int | str | None] = [*chosen[families[0]]] or [None]
        rows += [_row(family, entries[family], base, rank) for rank in own for family in families]
    return tuple(rows)


def _ranks(family: str, entry: RowEntry, base: Settings, ranks: list[int | str]) -> list[int | str]:
    """The ranks at which a row stands; none where its method has no rank, or where the row fixes the rank."""
    settings = base | (entry.model_extra or {})
    method = settings.get("method")
    if method not in methods.names():
        given = f", got {method!r}" if "method" in settings else ""
        raise ConfigError(f"rows.{family}.method must be one of {', '.join(methods.names())}{given}")
    if not methods.has(method, "rank") or "method.rank" in settings:
        return []
    return ranks if entry.ranks is None else entry.ranks


def _row(family: str, entry: RowEntry, base: Settings, rank: int | str | None) -> Row:
    """A row at a rank of the study; None: the row fixes its rank by itself, or has none."""
    if unknown := [s for s in entry.scales if s not in scales.names()]:
        raise ConfigError(f"rows.{family}.scales has {unknown[0]!r}; allowed: {', '.join(scales.names())}")
    own = entry.model_extra or {}
    number = rank_number(rank) if isinstance(rank, str) else rank
    shown = number or (base | own).get("method.rank")
    # `{rank}` stands for the rank, and where the file gives no label the rank of the study stands at the end.
    label = entry.label or (f"{family}, r = {{rank}}" if number else family)
    if "{rank}" in label and shown is None:
        raise ConfigError(
            f"rows.{family}.label has {{rank}}, and the row has no rank; allowed: ranks, or another label"
        )
    return Row(
        label.replace("{rank}", str(shown)),
        family,
        {n: base[n] for n in ("method",) if n in base} | own,
        rank=number if isinstance(rank, str) else None,
        own_rank=None if isinstance(rank, str) else rank,
        scales=tuple(entry.scales),
        search=_search(entry.search, f"rows.{family}."),
    )


def _columns(entries: list[str] | dict[str, ColumnEntry], base: Settings) -> tuple[Column, ...]:
    if not entries:
        return _all_metrics(base)
    if isinstance(entries, list):
        entries = {name: ColumnEntry() for name in entries}
    columns = []
    for name, entry in entries.items():
        settings = base | (entry.model_extra or {})
        if "task" not in settings:
            raise ConfigError(f"columns.{name} has no task, and base has none; allowed: {', '.join(tasks.names())}")
        column = Column(
            name,
            "",
            entry.metric or name,
            settings,
            entry.at,
            rank_number(entry.rank) if entry.rank else None,
            tuple(entry.scales),
            entry.ours,
            entry.paper_model,
        )
        columns.append(replace(column, label=entry.label or _label(column)))
    label, times = Counter(column.label for column in columns).most_common(1)[0]
    if times > 1:
        alike = " and ".join(column.name for column in columns if column.label == label)
        raise ConfigError(f"columns {alike} are both called {label!r}; give each a label of its own")
    return tuple(columns)


def _label(column: Column) -> str:
    """The label of a column to which the file gives none: the metric's, then what the column fixes."""
    label = f"{column.info.label} ({column.task}, ours)" if column.ours else column.info.label
    place = "" if column.at is None else f"{100 * column.at:g} % of training"
    return ", ".join(filter(None, (label, place, f"r = {column.rank}" if column.rank else "")))


def _all_metrics(base: Settings) -> tuple[Column, ...]:
    """A column for each metric of the task, the headline first; shown where a run has a value for it."""
    if "task" not in base:
        raise ConfigError(f"base.task is missing; allowed: {', '.join(tasks.names())}")
    given = {n.removeprefix("task."): _value(v) for n, v in base.items() if n.startswith("task.")}
    return metric_columns(TaskSettings.model_construct(name=base["task"], **given), base)


def _value(argument: Any) -> Any:
    """The value of an argument of run.py, which a command line gives as text: `[gsm8k]` is a list."""
    try:
        return yaml.safe_load(argument) if isinstance(argument, str) else argument
    except yaml.YAMLError:
        return argument


def changed(study: Study, arguments: Settings) -> Study:
    """The study with further arguments of run.py for all its cells.

    Raises:
        ConfigError: An argument is one that a study decides itself.
    """
    entries = copy.deepcopy(study.file)
    for part in (entries["rows"], entries.get("columns")):
        for entry in part.values() if isinstance(part, dict) else ():
            for argument in arguments:
                entry.pop(argument, None)  # an argument says what all cells have
    entries["base"] = {**entries.get("base", {}), **arguments}
    entries["title"] = f"{study.title}, with {', '.join(f'{n}={v}' for n, v in arguments.items())}"
    return of_entries(f"{study.name}-{key_of(arguments)[:6]}", entries)


def text(study: Study) -> str:
    """The file of the study."""
    return yaml.safe_dump(study.file, sort_keys=False, allow_unicode=True, width=100)


def keep(study: Study, results: Path) -> Path:
    """Write the file of the study into a folder of results, where tables, figures and the page find it."""
    path = results / FOLDER / f"{study.name}.yaml"
    if not path.is_file() or path.read_text(encoding="utf-8") != text(study):
        files.write(path, text(study).encode())
    return path
