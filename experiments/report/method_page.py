"""docs/league.md: what each method does, how it spends a budget, and what the league measured, where there are runs."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec import methods
from ..spec.parse import of_methods
from ..spec.run_config import Method
from ..study import study_file
from ..study.fill import Results
from . import markdown, rank_question, tables, wording

LEAGUE = "league"  # the study that compares all methods
SCALE, TASK, RANK = "laptop", "uuid", 4  # the run whose settings are shown
INTRODUCTION = """# Methods at the same budget

This page compares every method of `conf/method` that has an adapter, with at most the parameters of LoRA. `method.rank`
means the same for all methods: a method may train as many parameters as a LoRA of this rank. The runs of methods with
restarts are in Tables 1, 3, 6 and 7.
`python scripts/make_tables.py --league docs/league.md` writes this page from the files of the methods and from the
records. `make check` fails if the page differs from these files.
[performance.md](performance.md#every-method-against-lora) compares the time and the memory of each method with LoRA's,
for one layer and for one training step.
"""
SETTINGS = """## What each method does

The texts come from the files of the methods. In a formula W is the frozen weight (d outputs, k inputs), dW is the
update of W, and q is the side of a square matrix. The settings are those of the run `task={task} scale={scale}` with
`method.rank={rank}`, without the names of the layers. The value of a setting that is "the largest that fits" is found
by counting parameters, and the run prints the value. "The best of" some values is the value with which the method
trains the most parameters.
"""
IN_PEFT = """## MoRA in PEFT's own comparison of methods

The repository of PEFT compares PEFT's methods: in its folder `method_comparison/MetaMathQA`, each method trains
Llama-3.2-3B on MetaMathQA and is scored on GSM8K. An experiment there is a folder with two files. This command writes
such a folder for MoRA; OUT is the folder `method_comparison/MetaMathQA` of a clone of PEFT.

```sh
python scripts/export_peft_experiment.py OUT
```

By default the experiment has the budget of PEFT's LoRA at rank 32, on `q_proj` and `v_proj`: LoRA trains 9,175,040
parameters. M has 443 rows and columns for `q_proj` and 362 for `v_proj`, so MoRA trains 9,164,204 parameters. `--rank`,
`--operator` and `--learning-rate` change the experiment. PEFT alone does not know MoRA, so the command that the script
prints imports this project first. This project has not run the comparison, because it needs a GPU.
"""


def page(all_results: Sequence[Results]) -> str:
    """The page.

    Args:
        all_results: The records, scale by scale.
    """
    runs = of_methods(RANK, f"task={TASK}", f"scale={SCALE}")
    rows = [_line(name, run.method) for name, run in runs.items()]
    parts = [INTRODUCTION, SETTINGS.format(task=TASK, scale=SCALE, rank=RANK)]
    parts += [markdown.compact_grid(("method", "what it does", "formula", "paper", "settings"), rows)]
    return "\n".join([*parts, "## Results and cost\n", _results(all_results), IN_PEFT])


def _line(name: str, method: Method) -> tuple[str, ...]:
    notes = methods.notes(name)
    settings = {n: v for n, v in (method.peft or {}).items() if n not in ("peft_type", "target_modules")}
    if method.budget:
        settings[method.budget] = "the largest that fits"
        for setting, values in (method.budget_choices or {}).items():
            settings[setting] = f"the best of {', '.join(map(str, values))}"
        if method.budget_pattern:
            settings[method.budget_pattern] = "a value for each size of layers"
    shown = ", ".join("=".join(map(str, item)) for item in settings.items())
    formula = markdown.code(notes.formula) if notes.formula else wording.DASH
    label = f"{markdown.text(method.label)} (`{name}`)"
    return label, markdown.text(notes.summary), formula, notes.paper or wording.DASH, markdown.code(shown)


def _results(all_results: Sequence[Results]) -> str:
    """The league's table at each scale with runs; a line where there are none."""
    study = study_file.get(LEAGUE)
    filled = [tables.fill(study, results) for results in all_results if results.has_runs(study)]
    if not filled:
        return f"Nothing was run yet: `python scripts/plan.py {LEAGUE} --scale {SCALE} --run`.\n"
    parts = []
    for table in filled:
        parts += [f"### Scale {table.scale}\n", markdown.with_notes(table)]
        for question in rank_question.questions(table):
            of = f"Of the rows at r = {question.rank}, does" if question.rank else "Does"
            left_out = f" Left out: {markdown.text('; '.join(question.left_out))}." if question.left_out else ""
            asked = f"{of} a higher rank of the update give a better {question.column.label}?"
            parts.append(f"{asked} {question.text}.{left_out}\n")
        parts.append(markdown.details(table))
    return "\n".join(parts)
