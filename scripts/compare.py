"""Compare methods, or any values of a setting, on a task: search the rates, run the seeds, and answer with intervals.

    python scripts/compare.py method=lora,mora task=uuid --run
    python scripts/compare.py method=lora,mora task=custom model=my/folder task.train_file=a.jsonl --ranks 8,64 --run
    python scripts/compare.py method=mora method.operator=sharing,rotation task=uuid --run
    python scripts/compare.py --results my/results        compare runs that are finished already
    python scripts/compare.py --results my/results --beside results   compare with the runs of another folder, too
    python scripts/compare.py --results my/results --ranks 8 --columns loss   only these ranks and metrics of them

Each value of a list, such as method=lora,mora, is a row. The rows are compared with LoRA, or with the first row where
there is no LoRA. The script writes the comparison as the file of a study into <results>/studies. `plan.py` can run the
study too, and tables, figures and the page show the study. Without --run the script shows what would be run.
Exit codes: 0 done; 1 a run failed; 2 a bad argument; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import tasks
from experiments.cli import comparison, overrides, plans, script
from experiments.errors import ConfigError
from experiments.identity import makes_another_cell
from experiments.study import study_file

PLANS_RUNS = ("name", "seeds", "rate_search", "run", "print")
"""The options that only a comparison of runs to come has."""


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = script.Parser(__doc__)
    parser.add_config_dir(arguments)
    script.add_code(parser)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/")
    beside = "a folder with runs to show beside those of --results (repeatable)"
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="FOLDER", help=beside)
    parser.add_argument(
        "--ranks", type=script.numbers, default=[], help="the ranks to compare, comma-separated, such as 8,64"
    )
    parser.add_argument("--columns", type=script.names, default=[], help="the metrics to show, comma-separated")
    parser.add_argument("--name", default="", help="the name of the study")
    plans.add_options(parser)
    parser.add_argument("settings", nargs="*", metavar="name=value", help="settings for run.py")
    selection = parser.parse_intermixed_args(arguments)
    selection.scale = None
    _check(selection, parser)
    script.check_overrides(selection.settings)
    overrides.run_code(list(selection.settings))
    return selection


def _check(selection: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse the options that do nothing: the script either plans runs or compares runs that are finished already."""
    if selection.settings and selection.beside:
        raise ConfigError("--beside: allowed without settings for run.py, to compare runs that are finished already")
    for name in () if selection.settings else PLANS_RUNS:
        if getattr(selection, name) != parser.get_default(name):
            raise ConfigError(
                f"--{name.replace('_', '-')}: allowed with settings for run.py, such as method=lora,mora task=uuid; "
                "runs that are finished already are compared as they are"
            )


def main(arguments: list[str] | None = None) -> int:
    selection = options(arguments)
    if not selection.settings:
        return compare_records(selection)
    own = [text for text in selection.settings if makes_another_cell(text.partition("=")[0])]
    if selection.name in study_file.names():
        raise ConfigError(f"--name {selection.name}: conf/study has a study of this name; allowed: another name")
    study = comparison.study_of(own, selection.ranks, selection.seeds, selection.columns, selection.name)
    selection.settings = [text for text in selection.settings if text not in own]
    plan = plans.StudyPlan([study], selection)
    if selection.print:
        print(plan.commands(selection.print), end="")
        return 0
    if not selection.run:
        code = plan.show()
        print("Nothing was run: add --run.")
        return code
    code = plan.run(lambda line: print(line, flush=True))
    print(f"\n{comparison.text(study, plan.results)}\n")
    for path in comparison.write([study], selection.results, plan.scale):
        print(path)
    return code


def compare_records(selection: argparse.Namespace) -> int:
    """Compare the runs of a folder that differ only in their method, what is searched, and the seed."""
    records = script.records(selection.results)
    for folder in selection.beside:
        records += comparison.comparable(script.records(folder), records)
    found = comparison.of_records(records, selection.ranks, selection.columns)
    if not found:
        among = f" among those with --ranks {','.join(map(str, selection.ranks))}" if selection.ranks else ""
        unknown = sorted({record.cell["task"] for record in records if not tasks.is_known(record.cell["task"])})
        raise ConfigError(
            f"{selection.results} has no two finished cells that differ only in their method{among}; allowed: settings "
            "for run.py, such as method=lora,mora task=uuid"
            + (f", or --task-module FILE for the runs of {', '.join(unknown)}" if unknown else "")
        )
    for study, filled in found:
        print(f"{comparison.text(study, filled)}\n")
    for path in comparison.write([], selection.results, ""):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(script.guarded(main))
