"""The task and the adapter of docs/adding.md run as printed, from a folder that holds nothing else."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import files, tasks, user_code
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.spec import compose
from experiments.store.records import Store
from scripts import evaluate, make_tables, status

from ..conftest import ROOT
from ..processes import SMOKE, launch

PAGE = (ROOT / "docs" / "adding.md").read_text()
FIRST, SWEEP, EVALUATE = (
    shlex.split(line)
    for line in re.search(r"```sh\n(python run.py --config-dir my/conf task=reverse.*?)```", PAGE, re.DOTALL)[
        1
    ].splitlines()  # type: ignore[index]
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with the files of the page in the places that the page names."""
    for _, block in re.findall(r"```(python|yaml)\n(# my/.*?)```", PAGE, re.DOTALL):
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "_modules", {})
    return tmp_path


def run(folder, *arguments):
    return launch(*arguments, *SMOKE, log=folder / "log")


def refused(ending):
    """The only line of a run that was refused."""
    assert ending.code == 2, ending.err
    (line,) = ending.messages
    return line


def test_the_task_runs_as_printed(folder, capsys):
    done = run(folder, *FIRST[2:])
    assert done.code == 0, done.err
    assert "reverse-smoke-mora-r4-lr0.003-seed0: heldout_loss " in done.out
    (path,) = (folder / "results" / "runs").glob("*.json")
    record = json.loads(path.read_text())
    assert record["metrics"]["final"]["heldout_loss"] == record["metrics"]["curve"][-1]["heldout_loss"]
    assert record["identity"]["task"]["module"] == files.sha256(folder / "my" / "reverse.py")[:16]
    assert "finished before" in run(folder, *FIRST[2:]).out

    # A record names the Python file; the file is run only where the command line names it.
    command = [path.stem if a == "KEY" else a for a in EVALUATE[2:]]
    assert script.guarded(lambda: evaluate.main([path.stem])) == 2
    assert "say task.module=my/reverse.py (for scripts: --task-module my/reverse.py)" in capsys.readouterr().err
    assert script.guarded(lambda: evaluate.main(command)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal"

    # The tables of the paper are made from a folder that holds such a record.
    tasks._modules.clear()
    assert script.guarded(lambda: make_tables.main(["--results", "results", "--table", "2"])) == 0

    # A study of the task stays in the folder. Commands that do not know the task say so, and do their other work.
    study = {"base": {"task": "reverse"}, "rows": {"MoRA": {"method": "mora"}}, "columns": ["heldout_loss"]}
    (folder / "results" / "studies").mkdir()
    (folder / "results" / "studies" / "words.yaml").write_text(json.dumps(study))
    capsys.readouterr()
    assert script.guarded(lambda: make_tables.main(["--results", "results", "--scale", "smoke"])) == 0
    assert "got 'reverse'; the study is left out (for files of yours: --config-dir DIR, --t" in capsys.readouterr().err
    table = ["--config-dir", "my/conf", "--results", "results", "--study", "words", "--scale", "smoke"]
    own = ["--task-module", "my/reverse.py"]
    try:
        assert script.guarded(lambda: make_tables.main([*table, *own])) == 0
        assert "loss of held-out words" in (folder / "results" / "tables" / "smoke" / "words.md").read_text()
        capsys.readouterr()
        assert script.guarded(lambda: status.main([*table, *own])) == 0
        assert "1 finished" in capsys.readouterr().out
    finally:
        compose.search([])
        tasks._modules.clear()

    # A mistyped setting beside a user's own files is one line too.
    for wrong in ("task.leters=7", "+task.leters=7", "method.rnk=3"):
        name = wrong.lstrip("+").partition("=")[0]
        assert f"{name} is not a setting of " in refused(run(folder, *FIRST[2:], wrong))

    # Another content of the file is another run.
    module = folder / "my" / "reverse.py"
    module.write_text(module.read_text().replace("Random(0)", "Random(1)"))
    assert run(folder, *FIRST[2:]).code == 0
    assert len(list((folder / "results" / "runs").glob("*.json"))) == 2


def test_the_sweep_runs_as_printed(folder):
    done = run(folder, *SWEEP[2:])
    assert done.code == 0, done.err
    keys = [path.stem for path in (folder / "results" / "runs").glob("*.json")]
    assert {Store(folder / "results").read(key).cell["method"] for key in keys} == {"lora", "mora"}


@pytest.mark.slow
def test_the_task_runs_on_several_processes(folder):
    done = run(folder, *FIRST[2:], "hardware.processes=2")
    assert done.code == 0, done.err


def test_no_file_names_code(folder):
    """Neither a configuration file of the user nor a default runs a Python file."""
    (folder / "my" / "evil.py").write_text("open('went-off', 'w')\n")
    settings = folder / "my" / "conf" / "task" / "reverse.yaml"
    settings.write_text(settings.read_text().replace("module: null", "module: my/evil.py"))
    arguments = ("--config-dir", "my/conf", "task=reverse")
    assert "task=reverse is defined in my/evil.py, and only the command line may" in refused(run(folder, *arguments))
    (folder / "my" / "conf" / "experiment").mkdir()
    (folder / "my" / "conf" / "experiment" / "e.yaml").write_text("# @package _global_\ntask: {module: my/evil.py}\n")
    arguments = ("--config-dir", "my/conf", "task=uuid", "experiment=e")
    assert "task=uuid is defined in my/evil.py, and only the command line may" in refused(run(folder, *arguments))
    assert not os.path.exists("went-off")


def test_all_missing_keys_of_a_protocol_are_one_line(folder):
    protocol = folder / "my" / "conf" / "protocol" / "reverse_smoke.yaml"
    protocol.write_text("# @package _global_\ntraining: {steps: 3}\n")
    line = refused(run(folder, *FIRST[2:]))
    named = line.removeprefix("error: ").partition(" are missing: protocol/reverse_smoke.yaml or the command line")[0]
    assert {"model", "protocol.ranks", "protocol.learning_rates", "protocol.operators"} <= {*named.split(", ")}
    assert {"task.train_rows", "training.schedule", "training.batch_size"} <= {*named.split(", ")}
    assert "training.steps" not in named


def test_a_scale_without_a_protocol_names_the_file(folder):
    line = refused(launch(*FIRST[2:-1], *SMOKE[1:], "scale=laptop", log=folder / "log"))
    assert "task and scale choose protocol/reverse_laptop.yaml, which does not exist; there are biomed_laptop, " in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("x = (", "cannot be run: SyntaxError"),
        ("1 / 0", "cannot be run: ZeroDivisionError: division by zero"),
        ("import nosuch", "cannot be run: ModuleNotFoundError"),
        ("TASK = 3", "must define TASK, an instance of a class that derives from experiments.tasks.Task"),
        ("", "must define TASK"),
        ("class T(Task): name = 'x'", "cannot be run: TypeError"),
        ("class T(Abstract): name = 'x'", "TASK does not declare version, needs, metrics, headline"),
        ("class T(Whole): name = 'uuid'", "TASK.name must be a name that no task of this project has, got 'uuid'"),
        ("class T(Whole): name = 'a.b'", "TASK.name must be a name that no task of this project has, got 'a.b'"),
        ("class T(Whole): name = 'a'", "TASK.headline must be one of its metrics (), got 'x'"),
        ("class T(Whole): name, metrics = 'a', X; selection = 'y'", "TASK.selection must be one of its metrics (x)"),
        ("class T(Whole): name, metrics = 'a', X; curve_selection = 'y'", "TASK.curve_selection must be one of its"),
        ("class T(Whole): name, metrics = 'a', 2 * X", "TASK declares two metrics of the name x"),
    ],
)
def test_a_broken_module_is_one_line(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_modules", {})
    path = tmp_path / "module.py"
    if content is not None:
        head = "from experiments.tasks import Metric, Task\nX = (Metric('x', 'x'),)\n"
        head += "class Abstract(Task):\n    def prepare(self, *a): ...\n    measure = evaluate = prepare\n"
        head += "class Whole(Abstract): version, needs, metrics, headline = 1, (), (), 'x'\n"
        tail = "\nTASK = T()\n" if content.startswith("class") else "\n"
        path.write_text(head + content + tail)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        tasks.add(str(path))
    assert str(caught.value).startswith(f"task.module={path}")
    assert "\n" not in str(caught.value)


@pytest.mark.promise(
    "A file or a folder of a user that changes between the hash in the key and the training is refused."
)
def test_the_code_that_runs_is_the_code_in_the_key(tmp_path, monkeypatch):
    path = tmp_path / "own.py"
    path.write_text("VALUE = 1\n")
    specification = user_code.importlib.util.spec_from_file_location

    def swapping(*arguments):
        path.write_text("VALUE = 2\n")
        return specification(*arguments)

    monkeypatch.setattr(user_code.importlib.util, "spec_from_file_location", swapping)
    module, digest = user_code.load(str(path), "task.module")
    assert (module.VALUE, digest) == (1, hashlib.sha256(b"VALUE = 1\n").hexdigest())


def test_a_change_of_equal_size_and_time_runs_the_new_code(tmp_path, monkeypatch):
    """Python would take its own copy of the old code."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "own.py"
    for value in (3, 4):
        path.write_text(f"VALUE = {value}\n")
        os.utime(path, (1e9, 1e9))
        module, _ = user_code.load(str(path), "task.module")
        assert value == module.VALUE


def test_a_module_is_a_python_file(tmp_path):
    (tmp_path / "task.txt").write_text("TASK = 1")
    with pytest.raises(ConfigError, match=r"must be a Python file, with the ending \.py"):
        tasks.add(str(tmp_path / "task.txt"))


def test_a_task_may_have_settings_of_its_own(smoke):
    from experiments.identity import identity_of, key_of

    keys = {key_of(identity_of(smoke(*own))) for own in ((), ("++task.settings={letters: 6}",))}
    assert len(keys) == 2


def test_an_adapter_of_ones_own_runs_is_exported_and_stands_in_a_table(folder, capsys):
    module = folder / "my" / "band.py"
    own = ["--config-dir", "my/conf", "method=band", "task=uuid", "training.steps=4"]
    assert "method.peft.peft_type must be one of " in refused(run(folder, *own))
    done = run(folder, *own, "method.module=my/band.py")
    assert done.code == 0, done.err
    assert re.search(r"note: method.peft.r is \d+: the method trains [\d,]+ parameters, and a LoRA of rank", done.err)
    (path,) = (folder / "results" / "runs").glob("*.json")
    record = json.loads(path.read_text())
    assert record["identity"]["method"]["module"] == files.sha256(module)[:16]
    assert record["cost"]["trainable_parameters"] <= record["cost"]["budget_parameters"]

    # A plan starts run.py as another process. Scripts name the file too, and a record alone runs nothing.
    rows = {"LoRA": {"method": "lora"}, "Band": {"method": "band"}}  # the file is named for both, and defines one
    study = {"base": {"task": "uuid", "training.steps": 4}, "rows": rows, "seeds": 1}
    (folder / "my" / "bands.yaml").write_text(json.dumps(study | {"columns": ["value_loss"]}))
    begun = ["my/bands.yaml", "--config-dir", "my/conf", "--scale", "smoke", "--rate-search", "off", "--run"]
    command = [sys.executable, str(ROOT / "scripts" / "plan.py"), *begun, "method.module=my/band.py", *SMOKE[1:]]
    planned = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert planned.returncode == 0, planned.stderr
    script_of = [sys.executable, str(ROOT / "scripts" / "export_adapter.py"), path.stem, "out"]
    refusal = subprocess.run(script_of, capture_output=True, text=True, cwd=folder)
    assert (refusal.returncode, "say method.module=my/band.py (for scripts: --method-m" in refusal.stderr) == (2, True)
    exported = subprocess.run([*script_of, "--method-module", "my/band.py"], capture_output=True, text=True, cwd=folder)
    assert exported.returncode == 0, exported.stderr
    assert (folder / "out" / "model.safetensors").is_file()
    tables = ["make_tables.py", "--study", "my/bands.yaml", "--config-dir", "my/conf", "--scale", "smoke"]
    command = [sys.executable, str(ROOT / "scripts" / tables[0]), *tables[1:], "--method-module", "my/band.py"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert made.returncode == 0, made.stderr
    assert re.search(r"\| Band +\| [*\d.]+ \(1\)", (folder / "results/tables/smoke/bands.md").read_text())

    (lora,) = (
        r
        for p in (folder / "results" / "runs").glob("*.json")
        if (r := json.loads(p.read_text()))["cell"]["method"] == "lora"
    )
    assert lora["config"]["method"]["module"] is None
    assert "module" not in lora["identity"]["method"]
    sweep = run(folder, *own[:2], "-m", "method=lora,band", *own[3:], "method.module=my/band.py")
    assert (sweep.code, "2 cells" in sweep.out or "finished" in sweep.out) == (0, True), sweep.err

    # Another content of the file is another run, and a YAML file names no code.
    module.write_text(module.read_text().replace("torch.zeros(r, self", "torch.zeros(r, 1 * self"))
    assert run(folder, *own, "method.module=my/band.py").code == 0
    assert len(list((folder / "results" / "runs").glob("*.json"))) == 3
    (folder / "my" / "evil.py").write_text("open('went-off', 'w')\n")
    settings = folder / "my" / "conf" / "method" / "band.yaml"
    settings.write_text(settings.read_text().replace("module: null", "module: my/evil.py"))
    assert "method=band is defined in my/evil.py, and only the command line may" in refused(run(folder, *own))
    assert not os.path.exists("went-off")
    line = refused(run(folder, *own, "method.module=my/reverse.py"))
    assert "method.module=my/reverse.py registers no new adapter with PEFT" in line


def test_a_rank_that_no_setting_uses_is_refused(folder):
    """Without `budget` two ranks would be the same run under two names."""
    path = folder / "my" / "conf" / "method" / "ia3.yaml"
    text = """name: ia3
label: IA3
rates: lora
rank: 4
target_modules: ${protocol.target_modules}
peft: {peft_type: IA3, target_modules: '${method.target_modules}', feedforward_modules: []}
"""
    path.write_text(text)
    command = ("--config-dir", "my/conf", "method=ia3", "task=uuid", "dry_run=true")
    assert "method.rank has no effect: no setting of method=ia3 uses the rank" in refused(run(folder, *command))
    path.write_text(
        text.replace("IA3, target", "LORA, r: '${method.rank}', target").replace(", feedforward_modules: []", "")
    )
    assert run(folder, *command).code == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "ranks: 16",
            "method.ranks has no effect: nothing refers to it, and it is no entry of a method's file; allowed: ",
        ),
        ("budget_mots: 8", "method.budget_mots has no effect"),
        ("own: 3\nlooks: {any: '${method.own}'}", ""),
    ],
)
def test_an_entry_of_a_methods_file_without_an_effect_is_refused(folder, line, message):
    """A mistyped name would change nothing, and nobody would notice."""
    path = folder / "my" / "conf" / "method" / "mine.yaml"
    path.write_text(f"defaults: [lora, _self_]\nname: mine\nlabel: mine\n{line}\n")
    done = run(
        folder, "--config-dir", "my/conf", "method=mine", "task=uuid", "training.steps=1", "training.warmup_steps=0"
    )
    if message:
        assert message in refused(done)
    else:
        assert "has no effect" not in done.err
