"""The commands and the files that the documentation shows work."""

import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from experiments.cli import script
from experiments.data import catalogue, sources

from ..conftest import ROOT, compose, some_slow
from ..data.tokenizers_of import CACHE
from ..train import test_all_methods as all_methods

TABLE2 = "results/tables/smoke/table2.md"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def files_of_the_page() -> list[str]:
    return [block for block in blocks("docs/adding.md", "yaml") if block.startswith("# conf/")]


def insert(path: Path, after: str, text: str) -> None:
    before, line, rest = path.read_text().partition(after)
    path.write_text(before + line + text + rest)


@pytest.fixture(scope="module")
def copy_with_two_methods(tmp_path_factory) -> Path:
    """A copy of the project, with the blocks of docs/adding.md in the places that the page names."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("conf", "experiments", "mora", "scripts", "results/paper"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", copy)
    for block in files_of_the_page():
        (copy / block.splitlines()[0].removeprefix("# ")).write_text(block)
    (row,) = blocks("docs/adding.md", "text")
    insert(copy / "conf" / "study" / "table2.yaml", "  MoRA: {method: mora}\n", row)
    return copy


def call(copy: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SMOKE_RUN = ["run.py", "task=uuid", "scale=smoke", "logger=none", "hardware=cpu"]


@pytest.mark.parametrize("method", some_slow(["psoft", "rsdora"], ["psoft"]))
def test_a_method_of_the_page_trains_resumes_and_exports(method, tmp_path, capsys):
    """The test adds only the file of the method, in a folder outside the project."""
    for block in files_of_the_page():
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    all_methods.check(method, ["--config-dir", str(tmp_path / "conf")], tmp_path, capsys)


@pytest.mark.slow
def test_a_method_of_the_page_has_a_row(copy_with_two_methods):
    copy = copy_with_two_methods
    assert re.search("PSOFT, r = 256 .*3 missing", call(copy, "scripts/plan.py", "table2", "--scale", "smoke"))
    call(copy, *SMOKE_RUN, "method=psoft", "method.rank=64", "training.learning_rate=1e-3")
    call(copy, "scripts/make_tables.py", "--scale", "smoke", "--table", "2")
    assert re.search(r"\| PSOFT, r = 256 \(not in the paper\) +\|.* \(1\)", (copy / TABLE2).read_text())
    call(copy, "scripts/make_tables.py", "--scale", "smoke", "--study", "psoft")
    assert re.search(r"\| PSOFT, r = 256 +\|.* \(1\)", (copy / TABLE2).with_stem("psoft").read_text())


@pytest.mark.parametrize("name", ["schedules", "operators"])
def test_a_plot_of_the_docs_is_what_its_script_draws(name, tmp_path):
    drawn = tmp_path / f"{name}.svg"
    settings = matplotlib.rcParams.find_all("svg")
    importlib.import_module(f"scripts.plot_{name}").main([str(drawn)])
    assert matplotlib.rcParams.find_all("svg") == settings  # other figures of this process keep their settings
    assert drawn.read_bytes() == (ROOT / "docs" / drawn.name).read_bytes()
    assert os.listdir(tmp_path) == [drawn.name]


def readme_commands() -> list[list[str]]:
    """Every command in the blocks and in the table of the README, without comments."""
    text = (ROOT / "README.md").read_text()
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    lines += re.findall(r"`(python [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in dict.fromkeys(lines) if line.strip()]


RUNS = [c[2:] for c in readme_commands() if c[:2] == ["python", "run.py"]]
SCRIPTS = [c[1:] for c in readme_commands() if c[0] == "python" and c[1].startswith("scripts/")]


def test_the_readme_shows_the_file_of_a_method():
    (block,) = blocks("README.md", "yaml")
    assert block == (ROOT / "conf" / "method" / "hira.yaml").read_text()


def test_the_readme_shows_commands_of_every_kind():
    assert len(RUNS) > 8
    assert len(SCRIPTS) > 4
    makes = {c[1] for c in readme_commands() if c[0] == "make"}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= makes <= targets


@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_the_readmes_runs_are_right_configurations(arguments):
    flags = [a for a in arguments if a.startswith("-")]
    assert set(flags) <= {"-m", "--cfg"}
    values = [a for a in arguments if "=" in a and not a.startswith("experiment=") and not a.startswith("hardware=")]
    # A sweep counts as correct if its first and its last cell are correct.
    for pick in (0, -1):
        compose(*(f"{name}={value.split(',')[pick]}" for name, _, value in (v.partition("=") for v in values)))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_the_readmes_runs_run(arguments, tmp_path):
    """The runs have smoke scale, and keep the other settings of the README."""
    own = [a for a in arguments if not a.startswith(("scale=", "hardware="))]
    if any(a.startswith("model=") for a in own):
        own = [a for a in own if not a.startswith("training.")] + ["training.steps=2", "training.warmup_steps=1"]
    first = [own.pop(0)] if own[0] == "-m" else []  # Hydra expects the settings after the flag
    ours = ["scale=smoke", "hardware=cpu", "logger=none", f"paths.results={tmp_path}"]
    command = [sys.executable, "run.py", *first, *ours, *own]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# TRL calls a setting of transformers by its old name, each time a configuration is built.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("trainer", ["", "SFTTrainer"], ids=["peft", "trl"])
def test_the_readmes_snippets_run(trainer, tmp_path):
    """The second snippet trains: on the CPU, for two steps, and without a report to anybody."""
    from datasets import Dataset

    from experiments.train import base_models, scratch

    (snippet,) = (b for b in blocks("README.md", "python") if ("SFTTrainer" in b) == bool(trainer))
    ours = f'SFTConfig("{tmp_path}", use_cpu=True, bf16=False, report_to="none", save_strategy="no", '
    snippet = snippet.replace('SFTConfig("out", ', ours).replace("max_steps=100", "max_steps=2")
    rows = Dataset.from_list([{"prompt": f"{i} + {i} =", "completion": f" {2 * i}"} for i in range(16)])
    names = {"model": base_models.tiny_model(), "tokenizer": scratch.byte_tokenizer(), "rows": rows}
    exec(snippet, names)  # noqa: S102 - the README is this project's own
    model = names["trainer"].model if trainer else names["model"]
    assert model.active_peft_config.peft_type == "MORA"
    assert not trainer or any(p.any() for name, p in model.named_parameters() if "mora" in name.lower())


@pytest.mark.slow
def test_the_readmes_scripts_run(smoke, tmp_path, capsys):
    """The scripts run in the order of the README, on the results of one smoke run, whose key replaces KEY."""
    from experiments import runner

    record = runner.run(smoke("method=mora"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i} + {i} =", "completion": "{2 * i}"}}\n' for i in range(40)))
    for path, *arguments in SCRIPTS:
        arguments = [a.replace("KEY", record.key) for a in arguments if a != "--run"]
        arguments = [a.replace("my/model", "tiny").replace("my/rows.jsonl", str(rows)) for a in arguments]
        arguments = [str(tmp_path / a) if a == "OUT" else a for a in arguments]
        where = [] if Path(path).name == "prepare_data.py" else ["--results", str(tmp_path / "results")]
        check = ["--check"] if Path(path).name == "prepare_data.py" else []
        main = importlib.import_module(f"scripts.{Path(path).stem}").main
        code = script.guarded(functools.partial(main, [*arguments, *where, *check]))
        # `prepare_data.py --check` downloads nothing: on a new machine it says what is missing.
        there = not check or all(sources.state(name, CACHE) == "ready" for name in catalogue.SOURCES)
        assert code == (0 if there else 1), f"{path}: {capsys.readouterr().err}"
