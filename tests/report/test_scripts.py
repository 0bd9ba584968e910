"""The scripts as a user calls them."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import os
import shutil
import subprocess
import sys

import pytest

from experiments.cli.script import guarded
from experiments.identity import key_of
from experiments.paper import Cell
from experiments.report import latex, output
from experiments.study import study_file
from experiments.study.cells import Protocols

from .. import synthetic
from ..conftest import ROOT, some_slow


def script(name, *arguments):
    """Run a script in this process, as the command line would; starting Python for each call would take a minute."""
    main = importlib.import_module(f"scripts.{name}").main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = guarded(lambda: main(list(map(str, arguments))))
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Table 2 at smoke scale and one of its cells at laptop scale, with the keys that run.py gives."""
    records = []
    for scale, cells in (("smoke", study_file.get("table2").cells("smoke")), ("laptop", [Cell("uuid", "mora", 8)])):
        protocols = Protocols(scale)
        records += [r for c in cells for r in synthetic.searched(protocols.setting(c), (0, 1, 2))]
    return synthetic.write(records, tmp_path_factory.mktemp("results"))


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_tables_are_filled_and_the_same_twice(results, tmp_path):
    one, two = (shutil.copytree(results, tmp_path / name) for name in ("one", "two"))
    for folder in (one, two):
        done = script("make_tables", "--results", folder)
        assert (done.returncode, done.stderr) == (0, "")
    assert tree(one) == tree(two)
    with (one / "tables" / "smoke" / "table2.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["n"] for line in lines] == ["3"] * 42
    assert {line["scale"] for line in lines} == {"smoke"}
    assert (one / "tables" / "laptop" / "table2.md").read_text().count("python run.py") == 6
    assert "## Scale: laptop" in (one / "FINDINGS.md").read_text()
    assert "smoke" not in (one / "FINDINGS.md").read_text()


@pytest.mark.parametrize("name", some_slow(["make_tables", "make_figures", "make_report"], ["make_tables"]))
def test_a_process_gives_the_same(name, results, tmp_path):
    one, two = (shutil.copytree(results, tmp_path / n) for n in ("one", "two"))
    options = ["--scale", "smoke", *(["--figure", "2"] if name == "make_figures" else [])]
    command = [sys.executable, ROOT / "scripts" / f"{name}.py", "--results", one, *options]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": "7"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    script(name, "--results", two, *options)
    assert tree(one) == tree(two)


def test_check_knows_what_is_stale(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "results")
    assert script("make_tables", "--results", folder, "--check").returncode == 1
    assert not (folder / "tables").exists()
    script("make_tables", "--results", folder)
    script("make_report", "--scale", "smoke", "--results", folder)
    assert script("make_tables", "--results", folder, "--check").returncode == 0
    assert script("make_report", "--scale", "smoke", "--results", folder, "--check").returncode == 0
    next(iter((folder / "runs").iterdir())).unlink()
    stale = script("make_tables", "--results", folder, "--check")
    assert stale.returncode == 1
    assert stale.stderr.startswith("stale: ")
    assert script("make_report", "--scale", "smoke", "--results", folder, "--check").returncode == 1


def test_the_readme_gets_answer_and_claims_between_its_marks(results, tmp_path):
    folder, page = shutil.copytree(results, tmp_path / "results"), tmp_path / "README.md"
    answer = "<!-- answer: ours -->\nold\n<!-- end of answer -->\n"
    page.write_text(f"before\n{answer}<!-- claims: ours -->\nold\n<!-- end of claims -->\nafter\n")
    assert script("make_tables", "--results", folder, "--readme", page).returncode == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- answer: ours -->\nCharacter accuracy, %, mean ± standard deviation (seeds): ")
    assert "\n<!-- end of answer -->\n<!-- claims: ours -->\nClaims of the paper: " in text
    assert text.endswith("\n<!-- end of claims -->\nafter\n")
    assert "old" not in text
    table = text.split("<!-- claims: ours -->\n")[1].split("<!--")[0]
    assert table in (folder / "FINDINGS.md").read_text()
    page.write_text("no marks\n")
    done = script("make_tables", "--results", folder, "--readme", page)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert page.read_text() == "no marks\n"


@pytest.mark.promise("A page that is no text is refused in one line, and stays as it is.")
def test_a_readme_that_is_no_text_is_refused(results, tmp_path, counted):
    page = tmp_path / "README.md"
    page.write_bytes(b"\x89PNG")
    done = script("make_tables", "--results", shutil.copytree(results, tmp_path / "results"), "--readme", page)
    assert (done.returncode, done.stderr) == (2, f"error: {page} is not UTF-8 text\n")
    assert page.read_bytes() == b"\x89PNG"
    counted(1, "pages")


def test_check_knows_what_is_left_over(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "results")
    script("make_tables", "--results", folder)
    old = folder / "tables" / "workstation" / "table2.md"
    old.parent.mkdir()
    old.write_text("of records that are gone\n")
    checked = script("make_tables", "--results", folder, "--check")
    assert (checked.returncode, checked.stderr) == (1, f"left over, no record gives it: {old}\n")
    old.unlink()
    assert script("make_tables", "--results", folder, "--check").returncode == 0


@pytest.mark.parametrize("name", ["make_tables", "make_figures", "make_report"])
def test_no_results_folder_is_one_line_and_2(name, tmp_path):
    done = script(name, "--results", tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is not a folder" in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("make_tables", ["--table", "5"]),
        ("make_tables", ["--scale", "galaxy"]),
        ("make_figures", ["--figure", "9"]),
        ("make_report", ["--colour"]),
        ("plan", ["--table", "5"]),
        ("plan", ["--seeds", "0,0"]),
        ("plan", ["--seeds", "x"]),
        ("plan", ["--run", "--print", "slurm"]),
        ("plan", ["hardware"]),
    ],
)
def test_a_bad_argument_is_one_line_and_2(name, arguments):
    done = script(name, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_an_unreadable_record_is_named_and_the_rest_stands(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "results")
    (folder / "runs" / "zzz.json").write_text('{"schema": 1, "key"')
    for name in ("make_tables", "make_figures", "make_report"):
        done = script(name, "--results", folder, "--scale", "smoke", *(["--figure", "3"] if "fig" in name else []))
        assert done.returncode == 0
        assert "zzz.json is not a readable record" in done.stderr
    assert "zzz.json" in (folder / "report.html").read_text()
    assert "(3)" in (folder / "tables" / "smoke" / "table2.md").read_text()


def test_runs_in_no_table_are_mentioned(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "results")
    setting = Protocols("smoke").setting(Cell("uuid", "mora", 8))
    identity = setting.run_identity(1e-2, 0) | {"model": "mine"}
    other = synthetic.record(setting, 1e-2, 0, key=key_of(identity), name="mine", model="mine", identity=identity)
    synthetic.write([other], folder)
    done = script("make_tables", "--results", folder, "--scale", "smoke")
    assert done.returncode == 0
    assert "1 finished runs at scale smoke are in no table or figure" in done.stderr
    assert f"mine ({key_of(identity)})" in done.stderr


def test_plan_shows_states_and_prints_commands(results):
    done = script("plan", "--table", "2", "--scale", "smoke", "--results", results)
    assert done.returncode == 0
    assert "7 cells; 0 runs to do" in done.stdout
    lines = script(
        "plan", "--table", "2", "--scale", "laptop", "--results", results, "--print", "hydra"
    ).stdout.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("python run.py -m method=") for line in lines)
    none = script("plan", "--figure", "2", "--results", results / "not" / "yet")
    assert none.returncode == 0
    assert "8 cells; at least 40 runs to do" in none.stdout


def test_plan_composes_without_torch(results):
    code = "import sys; sys.argv = ['plan.py', '--table', '2']; import scripts.plan as p; p.main(sys.argv[1:])"
    code += "; bad = {'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_figures_are_the_same_twice(results, tmp_path):
    one, two = (shutil.copytree(results, tmp_path / name) for name in ("one", "two"))
    for folder in (one, two):
        done = script("make_figures", "--results", folder, "--figure", "3", "--figure", "4", "--scale", "smoke")
        assert done.returncode == 0
        assert "no runs at scale smoke for: figure4" in done.stderr
    assert tree(one) == tree(two)
    svg = (one / "figures" / "smoke" / "figure3.svg").read_text()
    assert "<dc:date>" not in svg
    assert (one / "figures" / "smoke" / "figure3.png").read_bytes().startswith(b"\x89PNG")


def test_latex_compiles(results, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("needs pdflatex on the PATH")
    folder = shutil.copytree(results, tmp_path / "results")
    script("make_tables", "--results", folder, "--scale", "smoke")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "tables.tex"],
        cwd=folder / "tables" / "smoke",
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "tables" / "smoke" / "tables.pdf").stat().st_size > 10_000


@pytest.mark.parametrize("text", [r"\input{/etc/passwd}", "50 % & _{}$#~^\\", "ünï→▲"])
def test_latex_text_is_harmless(text):
    escaped = latex.text(text)
    assert escaped.isascii()
    for special in "%&_#":
        assert escaped.count(special) == escaped.count("\\" + special)
    assert "\\input" not in escaped


def test_files_appear_whole(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.md"
    output.write({path: b"old"})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        output.write({path: b"new"})
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_plan_names_the_nearest_record_of_a_cell_without_runs(tmp_path):
    setting = Protocols("smoke").setting(Cell("uuid", "mora", 8))
    identity = setting.run_identity(1e-2, 0) | {"model": "mine"}
    other = synthetic.record(setting, 1e-2, 0, key=key_of(identity), model="mine", identity=identity)
    synthetic.write([other], tmp_path)
    done = script("plan", "--results", tmp_path, "--scale", "smoke", "--table", "2", "--method", "mora")
    assert done.returncode == 0
    parted = f"{key_of(identity)}: model mine, this cell wants tiny-v1"
    assert f"no run of MoRA, r = 8 on uuid; the nearest record is {parted}" in done.stdout


def test_a_study_of_one_scale_is_shown_at_no_other(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "results")
    text = "base: {task: uuid, scale: laptop}\nrows: {MoRA: {method: mora}}\nranks: [r8]\ncolumns: [char_accuracy]\n"
    (folder / "studies").mkdir()
    (folder / "studies" / "mine.yaml").write_text(text)
    for name in ("make_tables", "make_figures"):
        assert script(name, "--results", folder, "--study", "mine").returncode == 0
    assert [path.parent.name for path in sorted(folder.rglob("*mine.md"))] == ["laptop"]
    assert {path.parent.name for path in folder.rglob("*_mine.svg")} == {"laptop"}
    for name in ("make_tables", "make_figures", "plan"):
        done = script(name, "--results", folder, "--study", "mine", "--scale", "smoke")
        assert (done.returncode, done.stderr) == (2, "error: --scale smoke: study mine is for the scale laptop only\n")
