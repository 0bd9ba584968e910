"""Studies that records make by themselves: runs that differ only in their method, what is searched, and the seed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic import ValidationError

from ..errors import ConfigError
from ..identity import cell_key_of, flat, group_of
from ..spec import methods
from ..spec.run_config import TaskSettings
from ..store.records import Record
from .cells import CellSetting
from .fill import FilledCell, Results
from .layout import REFERENCE_METHOD, Row, Study, metric_columns


def studies(results: Results, records: Iterable[Record]) -> list[Study]:
    """A study for each group of runs that can be compared. Its cells are put into `results`.

    Args:
        results: Where the cells of the studies are filled.
        records: The runs to compare, of the scale of `results`. Runs that have not finished belong to them: they say
            which rates diverged. In two cells at least a run has finished; a cell where all runs failed is a row too.
    """
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[shared_key(record)][record.cell_key].append(record)
    made = []
    for key, cells in groups.items():
        ended = {cell: runs for cell, runs in cells.items() if _any(runs, "finished", "failed")}
        if sum(_any(runs, "finished") for runs in ended.values()) > 1:
            made.append(_study(key, ended, results))
    return [study for study in made if study is not None]


def _any(runs: Iterable[Record], *statuses: str) -> bool:
    return any(run.status in statuses for run in runs)


def shared_key(record: Record) -> str:
    """Equal for runs that differ only in their method, what is searched, and the seed."""
    return cell_key_of({name: section for name, section in record.identity.items() if name != "method"})


def _study(key: str, cells: dict[str, list[Record]], results: Results) -> Study | None:
    first = next(iter(cells.values()))[0]
    task, model = first.cell["task"], first.cell["model"]
    try:
        columns = metric_columns(_settings(first), {"task": task})
    except ConfigError:
        return None  # the task of the runs is not here any more
    order = sorted(cells, key=lambda cell: (cells[cell][0].cell["method"] != REFERENCE_METHOD, cells[cell][0].name))
    names = _names([cells[cell][0] for cell in order])
    rows = [_row(*own, cells[cell][0], cell) for own, cell in zip(names, order, strict=True)]
    if len({row.family for row in rows}) == 1:  # nothing but the rank differs
        rows = [replace(row, family=row.label) for row in rows]
    shared = _shared_words([cells[cell][0] for cell in order])
    title = f"Runs on {task} with {model} that differ only in their method{f' ({shared})' if shared else ''}"
    study = Study(f"runs-{key[:6]}", title, tuple(rows), columns, results.scale, references=(rows[0].family,))
    for row, cell in zip(rows, order, strict=True):
        results.put(_filled(study, row, cells[cell]))
    return study


def _shared_words(records: Sequence[Record]) -> str:
    """What all runs say in their names about their data and settings: `data=rows-f81dbdde, steps=40`."""
    words = [re.split(r"-(?=[a-z_.]+=)", group_of(record.name))[1:] for record in records]
    return ", ".join(w for w in words[0] if not w.startswith("model=") and all(w in other for other in words))


def _settings(record: Record) -> TaskSettings:
    """The settings of a record's task; only its name where they are not those of this version."""
    task = record.cell["task"]
    try:
        return TaskSettings.model_validate(record.config.get("task") or {"name": task})
    except ValidationError:
        return TaskSettings.model_construct(name=task)


def _row(label: str, family: str, record: Record, cell_key: str) -> Row:
    return Row(label, family, {"method": record.cell["method"], "record": cell_key}, own_rank=record.cell["rank"])


def _names(records: list[Record]) -> list[tuple[str, str]]:
    """The label and the family of each cell's row. Rows of one family differ only in their rank or in PEFT's settings.

    The label tells the cells apart: the method, the rank, then the settings of the method that differ among its cells.
    PEFT's own settings, such as `peft.lora_alpha`, often follow from the other ones. They are named where no other
    setting differs.
    """
    names = []
    for record in records:
        method, rank = methods.label(record.cell["method"]), record.cell["rank"]
        alike = [r for r in records if (r.cell["method"], r.cell["rank"]) == (record.cell["method"], rank)]
        settings = [dict(flat(r.identity["method"])) for r in alike]
        own = settings[alike.index(record)]
        differ = [n for n, v in own.items() if any(other.get(n) != v for other in settings)]
        named = [name for name in differ if not name.startswith("peft.")]
        shown = [f"{name} = {own[name]}" for name in named or differ]
        label = ", ".join([method + (f", r = {rank}" if rank else ""), *shown])
        names.append((label, label if named else method))
    return names


def _filled(study: Study, row: Row, records: list[Record]) -> FilledCell:
    first, cell = records[0], study.cell(row, study.columns[0])
    rates = sorted({r.cell["learning_rate"] for r in records if r.cell["learning_rate"] is not None})
    setting = CellSetting(
        cell,
        study.scale,
        (),
        first.cell["rank"],
        first.cell["operator"],
        first.cell["model"],
        tuple(rates),
        rates[0] if rates else 0.0,
        first.identity,
        widens=False,
    )
    filled = FilledCell(cell, setting, "", "")
    filled.add(records)
    return filled
