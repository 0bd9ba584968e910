"""Any command line of a script gives the script's result, or ends in one line and exit code 2."""

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.cli import script

from ..conftest import ROOT

# Each script always gets these arguments, so that a correct command line takes little time.
FIXED = {
    "plan": ["--table", "2", "--scale", "smoke", "--task", "uuid"],
    "compare": ["--results", "nothing"],
    "make_tables": [],
    "make_figures": [],
    "make_report": [],
    "evaluate": [],
    "export_adapter": [],
    "export_peft_experiment": [],
    "import_official": [],
    "prepare_data": ["--check"],
    "status": [],
}
REFUSED = [
    (
        "export_adapter",
        ["0" * 16, "out", "--tolerance", "nan"],
        "argument --tolerance: must be a number of at least 0, got",
    ),
    (
        "export_adapter",
        ["0" * 16, "out", "--tolerance", "-1"],
        "argument --tolerance: must be a number of at least 0, got",
    ),
    ("export_adapter", ["0" * 16, "out", "--rank", "9" * 30], "argument --rank: must be an integer of at least 1, got"),
    (
        "export_adapter",
        ["0" * 16, "out", "--rank", "9" * 5000],
        "argument --rank: must be an integer of at least 1, got",
    ),
    ("export_adapter", ["../../x", "out"], "KEY must be the name of a record"),
    ("export_peft_experiment", ["out", "--rank", "0"], "argument --rank: must be an integer of at least 1, got"),
    ("export_peft_experiment", ["out", "--learning-rate", "nan"], "argument --learning-rate: must be above 0"),
    ("import_official", ["nosuch", "out"], "FOLDER is not a folder: nosuch"),
    ("import_official", ["--", "nosuch", "--"], "'--' is allowed once"),
    ("import_official", ["nosuch"], "the following arguments are required: OUT"),
    ("evaluate", ["../runs/" + "0" * 16], "KEY must be the name of a record"),
    ("evaluate", ["0" * 5000], "KEY must be the name of a record"),
    ("evaluate", ["0" * 16, "--tolerance", "inf"], "argument --tolerance: must be a number of at least 0, got"),
    ("evaluate", ["0" * 16], "there is no record"),
    ("evaluate", [], "the following arguments are required: KEY"),
    (
        "plan",
        ["--seeds", "9" * 5000],
        "argument --seeds: must be a number of seeds from 1 to 1000, or different seeds such as",
    ),
    (
        "plan",
        ["--seeds", str(2**32)],
        "argument --seeds: must be a number of seeds from 1 to 1000, or different seeds such as",
    ),
    ("plan", ["--seeds", ""], "argument --seeds: must be a number of seeds from 1 to 1000, or different seeds such as"),
    ("plan", ["--task", "foo"], "argument --task: invalid choice"),
    ("plan", ["--table", "4", "--figure", "3", "--method", "none"], "no cell of these studies has this"),
    ("plan", ["--config-dir", "nowhere"], "--config-dir: nowhere is not a folder"),
    ("compare", ["method=lora,mora", "task=uuid", "task.module=nowhere.py"], "task.module=nowhere.py cannot be read"),
    ("plan", ["table9"], "no study 'table9'; allowed: figure1, "),
    ("plan", ["no/such.yaml"], "study no/such.yaml cannot be read"),
    ("plan", ["table2", "seed=3"], "seed=3 is not for a plan to set: the study does, or --seeds"),
    ("compare", ["method=lora,mora", "task=uuid", "--name", "table2"], "--name table2: conf/study has a study"),
    ("compare", ["--run"], "--run: allowed with settings for run.py, such as method=lora,mora"),
    ("compare", ["--rate-search", "off"], "--rate-search: allowed with settings for run.py"),
    ("compare", ["method=lora,mora", "--beside", "."], "--beside: allowed without settings for run.py"),
    ("compare", ["task=uuid"], "what is compared? allowed: two values or more of a setting"),
    ("compare", ["method=lora,mora"], "base.task is missing; allowed: biomed"),
    ("compare", ["method=lora,nosuch", "task=uuid"], "method must be one of"),
    (
        "compare",
        ["method=lora,mora", "task=uuid", "--ranks", "0"],
        "argument --ranks: must be different positive integers, such as 8,64, got",
    ),
    ("compare", ["method=lora,mora", "task=uuid", "--name", "a/b"], "name has letters, digits, - and _ only"),
    ("compare", ["method=lora,mora", "task=uuid", "--beside", "."], "--beside: allowed without settings for run.py"),
    *(
        ("compare", ["method=lora,mora", "task=uuid", f"method.rank={ranks}"], "ranks.0: must be a positive integer,")
        for ranks in ("a,b", "1.5,8", "true,8")
    ),
    ("compare", ["method=lora,mora", "task=uuid", "model={a:1}"], "base.model must be a text, got {'a': 1}"),
    ("plan", ["model={a:1}"], "base.model must be a text, got {'a': 1}"),
    ("compare", ["--results", "."], "has no two finished cells"),
    (
        "compare",
        ["method=lora,mora", "task=uuid", "--columns", "a,,b"],
        "argument --columns: must be names with commas",
    ),
    ("compare", ["method=lora,mora", "task=uuid", "--ranks", "8,r256"], "argument --ranks: must be different positive"),
    ("compare", ["--results", ".", "--task-module", "nosuch.py"], "nosuch.py cannot be read"),
    ("plan", ["method=[fft,lora]"], "method must be one of"),
    ("plan", ["method='"], "cannot be read"),
    ("plan", ["--", "-m=1"], "unrecognized arguments: -m=1"),
    ("plan", ["--print", "slurm", "hardware=slurm"], "hardware=slurm would submit further jobs from it; allowed: an"),
    ("plan", ["protocol=3"], "task and scale choose the protocol"),
    ("make_tables", ["--results", "a" * 5000], "cannot be read"),
    ("make_tables", ["--results", "a\nb"], "is not a folder"),
    ("status", ["--results", "nowhere"], "nowhere is not a folder"),
    ("prepare_data", ["nosuch"], "no source 'nosuch'; allowed: smollm2-135m"),
    ("prepare_data", ["--foo"], "unrecognized arguments: --foo"),
    ("plot_operators", ["--foo"], "unrecognized arguments: --foo"),
    ("plot_schedules", ["out.svg", "again.svg"], "unrecognized arguments: again.svg"),
    ("print_ratios", ["nosuch"], "TASK must be one of"),
    ("print_ratios", ["--foo"], "unrecognized arguments: --foo"),
]


def call(name, arguments):
    """The exit code and the text on stderr."""
    main, err = importlib.import_module(f"scripts.{name}").main, io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = script.guarded(lambda: main([*FIXED.get(name, []), *arguments]))
        except SystemExit as end:
            code = end.code or 0
    return code, err.getvalue()


def check_refusal(err):
    last = err.splitlines()[-1]
    assert last.startswith("error: "), err
    assert all(line.startswith(("warning: ", "note: ")) for line in err.splitlines()[:-1]), err
    assert len(last) < 1000
    assert last.isprintable()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory. Its results folder holds a broken record."""
    (tmp_path / "results" / "runs").mkdir(parents=True)
    (tmp_path / "results" / "runs" / f"{'1' * 16}.json").write_text(json.dumps({"schema": 1}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.promise("A script refuses a wrong argument in one line, with exit code 2.")
@pytest.mark.parametrize(
    ("name", "arguments", "words"), REFUSED, ids=[f"{n} {' '.join(a)[:40]}" for n, a, _ in REFUSED]
)
def test_a_wrong_argument(folder, name, arguments, words):
    code, err = call(name, arguments)
    assert code == 2
    check_refusal(err)
    assert words in err


def test_a_wrong_argument_is_refused_before_anything_heavy_is_imported(folder):
    cases = [(name, [*FIXED.get(name, []), *arguments]) for name, arguments, _ in REFUSED if len(str(arguments)) < 1000]
    probe = (
        "import importlib, json, sys\n"
        "from experiments.cli import script\n"
        "for name, arguments in json.load(sys.stdin):\n"
        "    try:\n"
        "        code = script.guarded(lambda: importlib.import_module(f'scripts.{name}').main(arguments))\n"
        "    except SystemExit as end:\n"
        "        code = end.code\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "    assert code == 2 and not heavy, (name, arguments, code, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if path.stem != "__init__")
# A study is a name or a file that is only read, a file of code is run where it is read, and --push names a repository.
NO_PATH = {"--study", "STUDY or name=value", "--task-module", "--method-module", "--push"}


def paths_of(name, monkeypatch):
    """The arguments of a script that are paths, by the words of the script, and all its positional arguments."""
    parsers = []

    def stop(parser, *_):
        parsers.append(parser)
        raise KeyboardInterrupt

    main = importlib.import_module(f"scripts.{name}").main
    with monkeypatch.context() as patch:
        patch.setattr(script.Parser, "parse_known_args", stop)
        with pytest.raises(KeyboardInterrupt):
            main([])
    actions = [action for action in parsers[0]._actions if action.nargs != 0]
    words = re.compile(r"\b(folder|file|path|page|out|output|copies|results|cache|dir)\b")
    found = [a for a in actions if a.type is Path or words.search(f"{a.dest} {a.metavar} {a.help}".lower())]
    return found, [action for action in actions if not action.option_strings and action.nargs in (None, "?")]


@pytest.mark.promise(
    "A path that begins with a ~, and a blank path, is refused or expanded, and no such folder is made."
)
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_path_of_a_script_has_the_rule_of_the_settings(name, folder, monkeypatch, counted):
    """The test asks the scripts for their arguments, so that a new argument or script cannot forget the rule."""
    before = sorted(folder.rglob("*"))
    found, positional = paths_of(name, monkeypatch)
    for action in found:
        shown = action.option_strings[0] if action.option_strings else action.metavar
        if shown in NO_PATH:
            continue
        assert action.type is Path, f"{name} {shown}: type=Path gives the rule"
        for path in ("~", "~/x", "~nobody/x", "", " ", "${y}/x"):
            line = [path if a is action else "x" for a in positional]
            code, err = call(name, [*line, f"{shown}={path}"] if action.option_strings else ["--", *line])
            assert code == 2
            assert err.startswith(f"error: argument {shown}: must be a path; a ~ is not replaced here, so write $HOME")
            check_refusal(err)
            counted(1, "paths refused")
    assert sorted(folder.rglob("*")) == before


def test_the_scripts_have_paths(monkeypatch):
    found = {name: len(paths_of(name, monkeypatch)[0]) for name in SCRIPTS}
    assert {name for name, count in found.items() if not count} == {"check_dry_run", "pretrain_base", "print_ratios"}


OPTIONS = ["--table", "--figure", "--task", "--method", "--scale", "--results", "--seeds", "--rate-search", "--check"]
OPTIONS += ["--print", "--tolerance", "--rank", "--force", "--format", "--cache", "--foo", "-x", "--", "-"]
WORDS = ["2", "5", "uuid", "fft", "smoke", "results", "nowhere", "0,1", "0,0", "hydra", "lora", "1" * 16, "0" * 16, "="]
WORDS += ["nan", "-1", "1e400", "", ".", "..", "/dev/null", "method=lora", "seed=[", "+x=1", "~x", "a=${b}", "a" * 300]
words = st.sampled_from(WORDS)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
arguments = st.lists(st.sampled_from(OPTIONS) | words | texts, max_size=5)


def fuzz(examples, **options):
    attempts = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        **options,
    )
    @given(st.sampled_from([*FIXED]), arguments)
    def check(name, options):
        code, err = call(name, options)
        attempts.append(options)
        assert code in (0, 1, 2)
        assert "Traceback" not in err
        if code == 2:
            check_refusal(err)

    check()
    return len(attempts)


@pytest.mark.promise("A script refuses a wrong argument in one line, with exit code 2.")
def test_random_arguments(folder, counted):
    counted(fuzz(80, derandomize=True), "script command lines")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise("A script refuses a wrong argument in one line, with exit code 2.")
def test_thousands_of_random_arguments(folder, counted):
    counted(fuzz(3000), "script command lines")
