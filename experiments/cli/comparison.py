"""A comparison as `scripts/compare.py` makes it: arguments -> a study, and a study with runs -> its answer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from tabulate import tabulate

from ..data import userfile
from ..errors import ConfigError
from ..identity import key_of
from ..report import output, pages, tables, wording
from ..report.answers import answers
from ..spec import methods
from ..spec.arguments import name_in, plain
from ..store.folder import read_records
from ..store.records import Record
from ..study import recorded, study_file
from ..study.fill import Results
from ..study.layout import REFERENCE_METHOD, Study


def study_of(
    arguments: Sequence[str], ranks: Sequence[int], seeds: Sequence[int] | None, columns: Sequence[str], name: str
) -> Study:
    """The study that arguments of run.py describe: each value of a sweep is a row.

    Args:
        arguments: Such as `method=lora,mora` and `task=uuid`.
        ranks: The ranks of all rows; none: the lowest rank of the protocol.
        seeds: The seeds; None: three.
        columns: The metrics to show; none: all metrics of the task.
        name: The name of the study; empty: one that its content gives.

    Raises:
        ConfigError: Nothing is swept over, or the study has an entry that it may not have.
    """
    base: dict[str, Any] = {}
    sweeps: dict[str, list[Any]] = {}
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        if override.is_delete():
            raise ConfigError(f"{override.input_line}: a comparison cannot take a setting away")
        if override.is_choice_sweep():
            sweeps[name_in(override)] = [plain(value) for value in override.sweep_iterator()]
        elif override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: allowed in a comparison: a list of values, such as a,b")
        else:
            base[name_in(override)] = plain(override.value())
    if not sweeps:
        raise ConfigError("what is compared? allowed: two values or more of a setting, such as method=lora,mora")
    if "method" not in sweeps:
        base.setdefault("method", "mora")
    elif "method.rank" in sweeps:  # the rows of one rank are compared with each other
        if ranks:
            raise ConfigError("--ranks and method.rank: both name the ranks; allowed: one of the two")
        ranks = sweeps.pop("method.rank")
    rows = {}
    for values in itertools.product(*sweeps.values()):
        row = dict(zip(sweeps, values, strict=True))
        rows[_label(row)] = row
    # With further lists there are several rows of LoRA. Each row is compared with all of them, the row of the same
    # settings among them.
    references = [label for label, row in rows.items() if row.get("method") == REFERENCE_METHOD] or [next(iter(rows))]
    reference = references[0] if len(references) == 1 else references
    entries: dict[str, Any] = {"base": base, "rows": rows, "reference": reference}
    entries |= {"ranks": list(ranks)} if ranks else {}
    entries |= {"seeds": list(seeds)} if seeds else {}
    entries |= {"columns": list(columns)} if columns else {}
    task = base.get("task", "")
    kind = "-".join([str(task), *map(str, sweeps.get("method", [base.get("method")]))])
    kind = "".join(c if (c.isalnum() and c.isascii()) or c in "-_" else "-" for c in kind)[:60]
    named = ", ".join([str(task), *([str(base["model"])] if "model" in base else []), *_shown(base)])
    title = f"{' against '.join(rows)} on {named}"
    return study_file.of_entries(
        name or f"{kind}-{key_of(entries)[:6]}", {"title": title} | entries, "of these arguments"
    )


def _shown(base: dict[str, Any]) -> list[str]:
    """What all rows share, so that the tables of two data files or of two lengths of training have different titles."""
    paths, elsewhere = (userfile.TRAIN, userfile.HELD_OUT), ("task", "model", "method", "scale")
    return _words({n: Path(str(v)).name if n in paths else v for n, v in base.items() if n not in elsewhere})


def _words(settings: dict[str, Any]) -> list[str]:
    return [f"{name.split('.')[-1]} = {value}" for name, value in settings.items()]


def _label(row: dict[str, Any]) -> str:
    method = [methods.label(row["method"])] if "method" in row else []
    return ", ".join([*method, *_words({name: value for name, value in row.items() if name != "method"})])


def of_records(
    records: Sequence[Record], ranks: Sequence[int] = (), columns: Sequence[str] = ()
) -> list[tuple[Study, Results]]:
    """The studies that records make by themselves, scale by scale.

    Args:
        records: The runs.
        ranks: The ranks to compare; none: all. Methods without a rank are always there.
        columns: The metrics to show; none: all metrics of the task.

    Raises:
        ConfigError: No study has one of the metrics.
    """
    found = []
    for results in pages.by_scale(records):
        shown = [record for record in results.records if not ranks or record.cell["rank"] in (None, *ranks)]
        found += [(study, results) for study in recorded.studies(results, shown)]
    if not columns:
        return found
    metrics = dict.fromkeys(column.name for study, _ in found for column in study.columns)
    if unknown := [name for name in columns if found and name not in metrics]:
        raise ConfigError(f"--columns: {', '.join(unknown)}; allowed for these runs: {', '.join(metrics)}")
    chosen = [(replace(s, columns=tuple(c for c in s.columns if c.name in columns)), results) for s, results in found]
    return [(study, results) for study, results in chosen if study.columns]


def comparable(others: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """The records among `others` that may differ only in their method from one of `records`, and are not among them."""
    keys, shared = {record.key for record in records}, {recorded.shared_key(record) for record in records}
    return [other for other in others if other.key not in keys and recorded.shared_key(other) in shared]


def text(study: Study, results: Results) -> str:
    """The answer of a study for the terminal: its table, and what the table says in words."""
    table = tables.fill(study, results)
    cells = wording.cells(table, "%s")
    grid = tabulate(list(cells.itertuples()), wording.header(cells), disable_numparse=True)
    lines = [f"{answer.verdict}: {answer.text}" for answer in answers(table)] or [_nothing(table)]
    return "\n".join([f"{study.heading}, scale {results.scale}", "", grid, "", *lines])


def _nothing(table: tables.FilledTable) -> str:
    """Why a table has no comparison."""
    with_values = [row[0].row.label for row in table.entries if any(entry.values for entry in row)]
    if len(with_values) < 2:
        return "There is nothing to compare yet."
    return f"Nothing is compared: {' and '.join(with_values)} have no value over a common seed."


def write(studies: Sequence[Study], folder: Path, scale: str) -> list[Path]:
    """Write tables and figures of studies, and the page of the whole folder. Gives the paths."""
    from ..report import figures, html  # matplotlib takes a second

    records, problems = read_records(folder)
    sections = pages.sections(records, folder)
    files: output.Files = {}
    for results, _ in sections:
        if results.scale == scale:
            files |= pages.table_files(results, studies, folder / "tables", document=False)
            files |= figures.figure_files(results, studies, folder / "figures")[0]
    files[folder / "report.html"] = html.page(records, sections, problems).encode()
    output.write(files)
    return [path for path in files if path.suffix in (".md", ".html")]
