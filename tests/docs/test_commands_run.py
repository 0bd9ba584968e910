"""Every command that a page shows runs: here in a folder of its own and at smoke scale, or in another test.

tests/docs also has a file for the commands of README.md (test_docs), adding.md, cluster.md and scaling.md.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .. import families
from ..conftest import ROOT
from ..processes import SMOKE
from ..tasks.test_custom import ADDS
from . import test_pages as pages
from .test_docs import blocks

# Commands that need a stand-in (a hub, a card, a clock) or a file of the page, and the test that has it.
ELSEWHERE = {
    "scripts/evaluate.py KEY --task-module my/reverse.py": "docs/test_adding.py::test_the_task_runs_as_printed",
    "scripts/gpu_check.py --rehearse": "test_gpu_check.py::test_the_whole_check_passes_its_rehearsal",
    "scripts/gpu_wheels.py --model": "test_gpu_check.py::test_the_folder_of_wheels_holds_the_model",
    "scripts/gpu_wheels.py --python 3.12": "test_gpu_check.py::test_the_folder_of_wheels_holds_the_model",
    "scripts/benchmark.py": "test_benchmark.py::test_a_part_is_measured_stored_and_rendered_and_another_joins_it",
    "scripts/status.py --watch": "cli/test_status.py::test_watching_on_a_terminal_redraws_until_ctrl_c",
    "scripts/import_official.py FOLDER OUT": "mora/test_official.py::test_the_script_writes_the_adapter_and_keeps_what",
} | dict.fromkeys(
    (name for name in pages.SCRIPTS if "--paper --copies" in name),
    "data/test_copies.py::test_the_script_fetches_what_the_paper_needs",
)
ELSEWHERE |= dict.fromkeys(
    (name for name in pages.SCRIPTS if "my/band.py" in name),
    "docs/test_adding.py::test_an_adapter_of_ones_own_runs_is_exported_and_stands_in_a_table",
)

# What a command names, and what stands for it here. No hub has the benchmarks; a task of lm-eval in a folder stands
# for them.
CHANGES = (
    (r"^task\.benchmarks=.*", "task.benchmarks=[my_task]"),
    (r"^arc_easy:acc_norm$", "my_task:acc_norm"),
    (r"=/", "={folder}/"),
    (r"^/", "{folder}/"),
    (r"^(docs/league\.md|OUT|DIR)$", "{folder}/\\1"),
)
SHORT = [f"training.{name}=2" for name in ("steps", "log_every", "evaluate_every", "checkpoint_every")]
SHORT += ["training.warmup_steps=1"]
MORE = {
    "scripts/check_dry_run.py": ["--model", "tiny"],  # the other model takes minutes
    "scripts/plot_operators.py": ["operators.svg"],  # without a name, the script writes into the project
    "scripts/plot_schedules.py": ["schedules.svg"],
    "scripts/benchmark.py --render": ["--page", "performance.md"],
    "scripts/prepare_data.py": ["--check"],
    "scripts/plan.py psoft --run": ["--config-dir", "my/conf", "--scale", "smoke", "--method", "lora"],
    "scripts/plan.py uuid_four_layers --run": ["--method", "lora", *SHORT],
    "scripts/plan.py table2 task.pairs=100 --run": ["--scale", "smoke", "--method", "mora", *SHORT],
    "scripts/compare.py method=lora,mora task=uuid --ranks 1,32 --run": ["scale=smoke"],
    "scripts/evaluate.py KEY --benchmarks arc_easy:acc_norm --limit 200 --add": ["--benchmark-path", "my/tasks"],
    "scripts/make_tables.py --league docs/league.md": ["--scale", "smoke"],
}
ABSENT = {"scripts/prepare_data.py", "scripts/prepare_data.py --check", "scripts/prepare_data.py --paper --check"}


@pytest.fixture(scope="module")
def reader(tmp_path_factory, trained) -> tuple[Path, str]:
    """The working folder of a reader who has the files that the pages name, and the key of a finished run there."""
    folder = tmp_path_factory.mktemp("reader")
    results, records = trained
    for name in ("results", "DIR", "shared/results"):
        shutil.copytree(results, folder / name)
    for name in ("docs", "copy/data"):
        (folder / name).mkdir(parents=True)
    for page in ("adding", "models-and-data", "studies"):
        for block in blocks(f"docs/{page}.md", "yaml"):
            name = re.match(r"# ((?:my|conf)/\S+\.yaml)\n", block)
            path = folder / (name[1] if name else "my/conf/experiment/cluster.yaml")
            path = folder / "my" / path.relative_to(folder) if path.is_relative_to(folder / "conf") else path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.replace(": /", f": {folder}/"))
    families.write("llama", folder / "my" / "folder")
    families.write("qwen3", folder / "models" / "qwen3-0.6b", hidden_size=256, head_dim=64)  # rank 64 fits
    pages.write_config_of_llama(folder / "models" / "llama-2-7b")
    rows = [{"prompt": f"{i} + {i} =", "completion": str(2 * i)} for i in range(80)]
    for name in ("rows.jsonl", "tickets.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.csv").write_text("prompt,completion\n" + "".join(f"{i} + 1 =,{i + 1}\n" for i in range(100, 110)))
    tasks = folder / "my" / "tasks"
    tasks.mkdir()
    questions = [{"question": f"{i} and {i} is", "choices": [str(2 * i), str(i)], "gold": 0} for i in range(5)]
    (tasks / "adds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (tasks / "my_task.yaml").write_text(yaml.safe_dump(yaml.safe_load(ADDS) | {"task": "my_task"}))
    return folder, records["mora"].key


def changed(argument: str, folder: Path, key: str) -> str:
    for pattern, replacement in CHANGES:
        argument = re.sub(pattern, replacement.format(folder=folder), argument)
    return re.sub(r"^KEY$", key, argument)


def call(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_what_runs_elsewhere_has_its_test():
    assert ELSEWHERE.keys() <= pages.SCRIPTS.keys()
    assert (MORE.keys() | ABSENT) <= pages.SCRIPTS.keys() - ELSEWHERE.keys()
    for name in ELSEWHERE.values():
        file, _, test = name.partition("::")
        assert f"def {test}" in (ROOT / "tests" / file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", pages.RUNS.values(), ids=pages.RUNS)
def test_a_run_of_a_page_runs(arguments, reader):
    """What the paper's scale needs is not here: such a run is a dry run."""
    folder, key = reader
    arguments = [changed(a, folder, key) for a in arguments if not a.startswith("hardware=")]
    smaller = ["hardware=cpu", "dry_run=true"] if "scale=paper" in arguments else [*SMOKE]
    first = [arguments.pop(0)] if arguments[0] == "-m" else []  # Hydra expects the settings after the flag
    done = call(["run.py", *first, *arguments, *smaller], folder)
    assert done.returncode == 0, done.stderr


HERE = {name: words for name, words in pages.SCRIPTS.items() if name not in ELSEWHERE}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", HERE)
def test_a_script_of_a_page_runs(name, reader):
    folder, key = reader
    settings = ["logger=none", "hardware=cpu", "hardware.threads=1"] if "--run" in name else []
    command = [changed(a, folder, key) for a in HERE[name]] + MORE.get(name, [])
    shutil.rmtree(folder / "OUT", ignore_errors=True)  # several commands of the pages make this folder
    done = call([*command, *settings], folder)
    # With --check, prepare_data.py fetches nothing: on a new machine, 1 says that something is missing.
    assert done.returncode in ({0, 1} if name in ABSENT else {0}), done.stderr
    if "--run" in name:
        assert "cells; 0 runs to do" in call([a for a in command if a != "--run"], folder).stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", ["demo", "compare", "results"])
def test_the_commands_of_a_target_run(target, reader):
    """`make -n` prints the commands of a target; the commands that set the project up are not run again."""
    folder, _ = reader
    printed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = [shlex.split(line)[1:] for line in printed.splitlines() if re.search(r"python (run\.py|scripts/)", line)]
    assert commands
    (folder / "README.md").write_text((ROOT / "README.md").read_text())
    for command in commands:
        smaller = SMOKE if command[0] == "run.py" else ["--scale", "smoke"] if "make_" in command[0] else []
        if "--ranks" in command:
            smaller = ["--ranks", "8"]  # of the smoke scale, in place of the laptop's
        done = call([*command, *smaller], folder)
        assert done.returncode == 0, done.stderr
