"""`python -m mora COMMAND` runs another tool's command with MoRA registered."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from peft import get_peft_model
from transformers import AutoModelForCausalLM

import mora
from mora import __main__ as command

from .. import families
from ..conftest import ROOT

PRINTS = "import sys; from peft import PeftType; print(sys.argv[1:], 'MORA' in PeftType.__members__, __name__)"


@pytest.fixture(autouse=True)
def same_interpreter(monkeypatch):
    """A command may change the arguments and the path of the interpreter."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_python_file_runs_with_its_arguments_and_its_neighbours(tmp_path, capsys):
    (tmp_path / "neighbour.py").write_text("VALUE = 'imported'")
    (tmp_path / "tool.py").write_text(f"import neighbour\nprint(neighbour.VALUE)\n{PRINTS}")
    assert command.main([str(tmp_path / "tool.py"), "--a", "b c"]) == 0
    assert capsys.readouterr().out == "imported\n['--a', 'b c'] True __main__\n"


@pytest.mark.parametrize("path", ["a_module.py", "a_package/__main__.py"])
def test_a_module_runs(path, tmp_path, monkeypatch, capsys):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(PRINTS)
    monkeypatch.syspath_prepend(tmp_path)
    assert command.main([path.partition("/")[0].removesuffix(".py"), "x"]) == 0
    assert capsys.readouterr().out == "['x'] True __main__\n"


@pytest.mark.parametrize(
    ("result", "code", "error"), [(None, 0, ""), (3, 3, ""), ("no such task", 1, "no such task\n")]
)
def test_the_exit_code_is_that_of_the_installed_command(result, code, error, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[__name__], "tool", lambda: result, raising=False)
    installed = EntryPoints([EntryPoint("a-tool", f"{__name__}:tool", "console_scripts")])
    monkeypatch.setattr(command, "entry_points", lambda **wanted: installed.select(**wanted))
    assert command.main(["a-tool"]) == code
    assert capsys.readouterr().err == error


@pytest.mark.parametrize(
    "name", ["lm_evall", "no.such.module", "experiments.files.", "../x.py", "", "xml", "tests.data"]
)
def test_a_wrong_command_is_one_line(name, capsys):
    assert command.main([name]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"mora: no command {name!r} was found; allowed: a command that")


def test_help_and_no_command(capsys):
    assert command.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith(command.HELP)
    assert command.main([]) == 2
    assert capsys.readouterr().err.startswith(command.HELP)


def test_an_error_inside_a_tool_is_the_tools_own(tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        command.main(["broken"])


TASK = """
task: copies
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list: [{metric: acc}]
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_lm_eval_scores_an_adapter(tmp_path):
    """lm_eval loads adapters with PEFT and does not import `mora`."""
    base, adapter, data = (tmp_path / name for name in ("base", "adapter", "data.jsonl"))
    families.write("llama", base)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), mora.MoraConfig(r=2)).save_pretrained(adapter)
    data.write_text("".join(json.dumps({"question": f"Is {i} even? ", "answer": i % 2}) + "\n" for i in range(4)))
    (tmp_path / "task.yaml").write_text(TASK.replace("DATA", str(data)))
    model = ["--model", "hf", "--model_args", f"pretrained={base},peft={adapter}", "--device", "cpu"]
    arguments = ["-m", "mora", "lm_eval", *model, "--tasks", "copies", "--include_path", str(tmp_path)]
    own = os.environ | {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], env=own, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "copies" in done.stdout
