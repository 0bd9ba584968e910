"""What scripts say about plans: costs, and settings that make a study of their own."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.cli.costs import Costs
from experiments.cli.plans import StudyPlan
from experiments.errors import ConfigError
from experiments.report import tables, wording
from experiments.spec import compose
from experiments.store.heartbeats import Heartbeat
from experiments.store.records import Store
from experiments.study import planning, start, study_file
from experiments.study.cells import Protocols
from scripts import plan as plan_script
from scripts import status

from .. import synthetic
from ..conftest import ROOT


def plan(results, *settings, studies=("table2",), scale="smoke", seeds=None):
    options = argparse.Namespace(
        scale=scale, results=results, seeds=seeds, rate_search="listed", settings=list(settings)
    )
    return StudyPlan([study_file.get(name) for name in studies], options)


def cost(made, label):
    return Costs(made.results.records).of_cell(dict(made.states())[label])


def test_an_estimate_says_where_it_comes_from(tmp_path):
    assert "on one A100 80 GB, by FLOPs of the base model" in cost(plan(tmp_path), "FFT")
    lora = plan(tmp_path).cells[1].cell
    setting = Protocols("smoke").setting(lora)
    runs = [synthetic.record(setting, setting.candidates[0], seed, config={}) for seed in (0, 1)]
    for run in runs:
        run.cost = {"seconds": 100.0, "trainable_parameters": 1.0}
    synthetic.write(runs, tmp_path)
    made = plan(tmp_path)
    assert cost(made, "LoRA, r = 8") == "4 runs, about 7 min (from 2 finished)"
    assert cost(made, "LoRA, r = 256") == "5 runs, about 8 min (from 2 finished)"
    assert "on one A100" in cost(made, "FFT")  # a run that says only seconds tells nothing about other methods
    for run in runs:
        run.cost |= {"total_parameters": 2_000_000, "tokens": 1000.0}
    synthetic.write(runs, tmp_path)
    assert "(by FLOPs of the base model, from other runs here)" in cost(plan(tmp_path), "FFT")


def test_the_file_of_a_study_that_ran_is_kept_with_its_results(tmp_path, monkeypatch):
    """Else no later script, and not the page, would know a study that a file outside conf/study describes."""
    monkeypatch.setattr(start, "run_all", lambda *_, **__: 0)
    own = tmp_path / "tickets.yaml"
    own.write_text("base: {task: uuid}\nrows: {A: {method: lora}, B: {method: mora}}\nranks: [4]\nreference: A\n")
    for study in ("table2", str(own)):
        plan(tmp_path, studies=(study,)).run([].append)
    assert study_file.files_of(tmp_path).keys() == {"tickets"}
    (kept,) = study_file.of_results(tmp_path)
    assert kept.cells("smoke") == study_file.get(str(own)).cells("smoke")


def test_a_time_is_scaled_to_the_steps_and_the_batch(tmp_path):
    made = plan(tmp_path)
    setting = Protocols("smoke").setting(made.cells[1].cell)
    config = {
        "training": {"steps": 2 * setting.config.training.steps, "batch_size": setting.config.training.batch_size}
    }
    run = synthetic.record(setting, setting.candidates[0], 0, config=config)
    run.cost = {"seconds": 20.0, "total_parameters": 1_800_000, "trainable_parameters": 1.0}
    synthetic.write([run], tmp_path)
    again = plan(tmp_path)
    seconds, source = Costs(again.results.records).seconds(dict(again.states())["LoRA, r = 256"])
    assert seconds == pytest.approx(10, rel=0.2)
    assert source == "from 1 finished"


def test_settings_that_make_other_cells_make_another_study(tmp_path):
    plain = plan(tmp_path, "hardware=cpu", "logger=none", "training.checkpoint_every=2")
    assert [s.name for s in plain.studies] == ["table2"]
    assert plain.extra[1:] == ["hardware=cpu", "logger=none", "training.checkpoint_every=2"]
    other = plan(tmp_path, "hardware=cpu", "task.pairs=8")
    assert [s.name for s in other.studies] != ["table2"]
    assert other.extra[1:] == ["hardware=cpu"]
    keys = [{p.setting.cell_key for _, p in made.states()} for made in (plain, other)]
    assert not keys[0] & keys[1]


def test_runs_of_another_study_are_found_again_so_the_seeds_follow_the_search(tmp_path):
    """`plan.py --run model=...` once ran the search and never found it."""
    made = plan(tmp_path, "task.pairs=8")
    setting = Protocols("smoke").setting(made.cells[1].cell)
    synthetic.write([synthetic.record(setting, rate, 0) for rate in setting.candidates], tmp_path)
    label, state = plan(tmp_path, "task.pairs=8").states()[1]
    assert (label, state.stage, len(state.needed)) == ("LoRA, r = 8", "seeds", 2)


def test_a_run_of_another_process_is_not_called_interrupted(tmp_path, capsys):
    """When that process has ended, the run is interrupted."""
    lora = Protocols("smoke").setting(plan(tmp_path).cells[1].cell)
    run = synthetic.record(lora, lora.candidates[0], 0, status="running")
    synthetic.write([run], tmp_path)
    heartbeat = Heartbeat(Store(tmp_path).progress(run.key), run, steps=100)
    heartbeat.start()
    try:
        assert planning.states(dict(plan(tmp_path).states())["LoRA, r = 8"]).startswith("1 running")
        assert plan(tmp_path).show() == 0
    finally:
        heartbeat.stop()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("LoRA, r = 8 "))
    assert " 1 running" in line
    assert planning.states(dict(plan(tmp_path).states())["LoRA, r = 8"]).startswith("1 interrupted")


@pytest.mark.parametrize(
    "setting",
    [
        *("seed=1", "method=lora", "task=math", "scale=paper", "paths.results=x", "dry_run=true"),
        *("++paths.results=x", "+seed=1"),
    ],
)
def test_what_a_study_decides_is_refused(tmp_path, setting):
    with pytest.raises(ConfigError, match=f"{re.escape(setting)} is not for a plan to set"):
        plan(tmp_path, setting)


def test_a_bad_cell_is_found_before_the_first_one_runs(tmp_path):
    made = plan(tmp_path, "method.operator=nosuch")
    said = []
    with pytest.raises(ConfigError, match=r"nothing was run, since a cell cannot be planned: FFT on uuid: .*more"):
        made.run(said.append)
    assert not said
    assert list(tmp_path.iterdir()) == []


def test_cells_that_the_hardware_does_not_take_are_named_with_the_plan(tmp_path, capsys):
    """A warm start needs one process. Without the line, a plan would end with such cells after days."""
    processes = ["hardware=ddp", "hardware.processes=8", "hardware.device=cpu"]
    plan(tmp_path, *processes, studies=("table3",), scale="paper").commands("hydra")
    refused = capsys.readouterr().err.splitlines()
    assert len(refused) == 2
    for line, label in zip(refused, ("ReLoRA", "ReMoRA"), strict=True):
        assert line.startswith(f"warning: {label}, r = 128, warm start on pretrain: run.py will refuse the runs with ")
        assert "training.warm_start_steps must be null with several processes" in line
    plan(tmp_path, "hardware.device=cpu", studies=("table3",), scale="paper").commands("hydra")
    assert capsys.readouterr().err == ""


def test_a_launcher_that_is_not_installed_here_is_named_once_and_the_plan_is_shown(tmp_path, capsys):
    plan(tmp_path, "hydra/launcher=submitit_other").show()
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("warning: run.py will refuse the runs here: ")
    assert "need hydra-submitit-launcher" in line
    assert "7 cells; 35 runs to do" in shown.out


def test_the_states_of_cells_are_computed_once_before_the_runs(tmp_path, monkeypatch):
    """Over thousands of records the states take seconds."""
    events, states = [], StudyPlan.states
    monkeypatch.setattr(StudyPlan, "states", lambda self: events.append("states") or states(self))
    monkeypatch.setattr(start, "run_all", lambda *_, **__: events.append("runs") or 0)
    (tmp_path / "runs").mkdir()
    plan(tmp_path).run([].append)
    assert events == ["states", "runs", "states"]
    events.clear()
    assert status.main(["--results", str(tmp_path), "--table", "2", "--scale", "smoke"]) == 0
    assert events == ["states"]


@pytest.mark.parametrize(
    "setting", ["hardware=slurm", "hardware='slurm'", "hydra/launcher=submitit_slurm", "+hydra/launcher=submitit_local"]
)
def test_a_script_for_slurm_submits_no_jobs(setting, tmp_path):
    with pytest.raises(ConfigError, match=f"{re.escape(setting)} would submit further jobs from it; allowed: "):
        plan(tmp_path, setting).commands("slurm")


@pytest.mark.parametrize(
    "defaults",
    ["[gpu@hardware, {override /hydra/launcher: submitit_slurm}, _self_]", "[slurm, _self_]", "[ours, slurm, _self_]"],
)
def test_a_script_for_slurm_is_refused_for_hardware_of_a_user_that_submits_jobs(defaults, tmp_path):
    """The third file names itself, too, which is for Hydra to refuse."""
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "ours.yaml").write_text(f"# @package _global_\ndefaults: {defaults}\n")
    compose.search([str(tmp_path)])
    try:
        with pytest.raises(ConfigError, match="hardware=ours would submit further jobs from it; allowed: "):
            plan(tmp_path, "hardware=ours").commands("slurm")
    finally:
        compose.search([])


@pytest.mark.parametrize("text", ["defaults: [gpu@hardware", "just text", "defaults: [3, {a: b}]", "defaults: null"])
def test_a_file_of_hardware_that_is_wrong_is_hydras_to_refuse(text, tmp_path, capsys):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "ours.yaml").write_text(text)
    compose.search([str(tmp_path)])
    try:
        assert plan(tmp_path, "hardware=ours").commands("slurm").startswith("#!/bin/bash")
    finally:
        compose.search([])
    assert re.search(r"^warning: .*run\.py will refuse the runs ", capsys.readouterr().err)


@pytest.mark.parametrize(("search", "words"), [("on", "7 cells; at least "), ("listed", "7 cells; ")])
def test_the_number_of_runs_is_the_fewest_while_a_search_may_go_on(search, words, tmp_path, capsys):
    """The best of two candidates always has no neighbour on one side, so a third rate is certain."""
    made = plan(tmp_path, scale="paper")
    made.options.rate_search = search
    counts = [planning.count_of_runs(state) for _, state in made.states()]
    candidates = [len(Protocols("paper").setting(c.cell).candidates) for c in made.cells]
    assert counts == [(max(3, n) if search == "on" else n) + 2 for n in candidates]
    made.show()
    assert f"{words}{sum(counts)} runs to do" in capsys.readouterr().out


def test_a_study_outside_the_checkout_hands_its_folder_to_the_runs(tmp_path, capsys):
    (tmp_path / "study").mkdir()
    rows = "{LoRA: {method: lora}, MoRA: {method: mora}}"
    (tmp_path / "study" / "mine.yaml").write_text(f"base: {{task: uuid, scale: smoke}}\nrows: {rows}\n")
    try:
        arguments = ["mine", "--config-dir", str(tmp_path), "--results", str(tmp_path / "r"), "--print", "hydra"]
        assert plan_script.main(arguments) == 0
    finally:
        compose.search([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.endswith(f"paths.results={tmp_path / 'r'} --config-dir {tmp_path}") for line in lines)


ODD = [
    "a b",
    "a,b",
    "a=b",
    "it's",
    '"q"',
    "[x]",
    "a(b)",
    "{a:1}",
    "x~y",
    "tail#",
    "tail\\",
    "a\\,b",
    "$HOME",
    "é",
    " a ",
    "null",
    "1e3",
]


@pytest.mark.promise("A folder may have any name, and a study runs in the folder that the command line names.")
@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_any_name_reaches_the_runs(name, tmp_path, capsys, counted):
    """Hydra reads the arguments of run.py as the shell gives them to run.py: of each cell one, in this folder."""
    results, own = tmp_path / name / "results", tmp_path / name / "own"
    (own / "study").mkdir(parents=True)
    (own / "method").mkdir()
    (own / "method" / "mine.yaml").write_text("defaults: [lora]\nname: mine\nlabel: Mine\n")
    rows = "{LoRA: {method: lora}, Mine: {method: mine}}"
    (own / "study" / "odd.yaml").write_text(f"base: {{task: uuid, scale: smoke}}\nrows: {rows}\nreference: LoRA\n")
    try:
        arguments = ["odd", "--config-dir", str(own), "--results", str(results), "--print", "hydra"]
        assert plan_script.main(arguments) == 0
        commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
        assert len(commands) == 2
        for command, method in zip(commands, ("lora", "mine"), strict=True):
            assert command[-2:] == ["--config-dir", str(own)]
            settings = [text for text in command[3:-2] if not text.startswith(("seed=", "training.learning_rate="))]
            composed = compose.composition(settings)
            assert (composed.method.name, composed.paths.results) == (method, str(results))
            overrides = OverridesParser.create().parse_overrides(settings)
            assert not any(override.is_sweep_override() for override in overrides)
            counted(1, "commands")
    finally:
        compose.search([])


@pytest.mark.slow
@pytest.mark.promise("A folder may have any name, and a study runs in the folder that the command line names.")
def test_a_study_runs_in_a_folder_of_an_odd_name(tmp_path):
    own = tmp_path / "my, [own] it's=é"
    (own / "study").mkdir(parents=True)
    rows = "{LoRA: {method: lora}, FFT: {method: fft}}"
    (own / "study" / "odd.yaml").write_text(f"base: {{task: uuid, scale: smoke}}\nrows: {rows}\nreference: LoRA\n")
    line = [sys.executable, str(ROOT / "scripts" / "plan.py"), "odd", "--config-dir", str(own), "--seeds", "1", "--run"]
    line += ["--rate-search", "off", "--results", str(own / "results"), "hardware=cpu", "logger=none"]
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((own / "results" / "runs").glob("*.json"))) == 2
    assert list(tmp_path.iterdir()) == [own]


def test_the_copy_of_a_model_fills_the_cells_of_the_model(tmp_path):
    made = plan(tmp_path, "model=/copy", "model_id=tiny")
    assert [study.name for study in made.studies] == ["table2"]
    assert made.extra[1:] == ["model=/copy", "model_id=tiny"]
    assert plan(tmp_path, "model=/copy", "++model_id=tiny").extra[1:] == ["model=/copy", "++model_id=tiny"]
    with pytest.raises(ConfigError, match="model_id=owner/other: the model of these cells is tiny"):
        plan(tmp_path, "model=/copy", "model_id=owner/other")
    assert plan(tmp_path, "model=/copy", "model_id=owner/other", scale="galore").cells  # there no cell can be planned


def test_what_no_run_measures_is_named_before_the_runs(tmp_path, capsys):
    rows = {"LoRA": {"method": "lora"}, "MoRA": {"method": "mora"}}
    entries = {"base": {"task": "uuid"}, "rows": rows, "columns": ["char_acc", "value_loss"], "curve": "char_accuracy"}
    options = argparse.Namespace(scale="smoke", results=tmp_path, seeds=None, rate_search="on", settings=[])
    StudyPlan([study_file.of_entries("mine", entries)], options)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: study mine: a run of task=uuid with these settings does not measure char_acc by itself; a run "
    )
    assert "char_accuracy" in line
    StudyPlan([study_file.of_entries("mine", entries | {"columns": ["value_loss"], "curve": "value_los"})], options)
    assert capsys.readouterr().err == "warning: study mine: no run measures its curve, value_los\n"


def test_two_scales_are_refused(tmp_path):
    study = dataclasses.replace(study_file.get("table2"), scale="laptop")
    options = argparse.Namespace(scale="smoke", results=tmp_path, seeds=None, rate_search="on", settings=[])
    with pytest.raises(ConfigError, match="--scale smoke: study table2 is for the scale laptop only"):
        StudyPlan([study], options)


def test_a_method_that_does_not_fit_its_budget_is_a_dash_with_its_reason(tmp_path, capsys):
    """Neither a run to do nor a failure: the plan and the tables know the reason before anything has run."""
    study = study_file.of_entries(
        "small",
        {"base": {"task": "uuid"}, "rows": {"LoHa": {"method": "loha"}, "LoRA": {"method": "lora"}}, "ranks": [1]},
    )
    options = argparse.Namespace(scale="smoke", results=tmp_path, seeds=None, rate_search="listed", settings=[])
    made = StudyPlan([study], options)
    (label, dash), (_, lora) = made.states()
    assert (dash.needed, planning.count_of_runs(dash), dash.unavailable) == ([], 0, "")
    assert dash.misfit.startswith("method=loha trains at least ")
    assert dash.misfit.endswith("allowed: method.rank=2 or more")
    assert lora.needed
    assert made.show() == 0
    shown = capsys.readouterr().out
    assert "a dash: does not fit its budget" in shown
    assert f"{label} on uuid has no run: {dash.misfit}" in shown
    table = tables.fill(study, made.results)
    assert f"{table.entries[0][0].row.label} has a dash: {dash.misfit}." in wording.footnotes(table)
    assert [row for row, *_ in table.commands()] == [table.entries[1][0].row.label]
    said = []
    assert start.run_all([label], lambda *_: dash, [], said.append) == 0
    assert said == [f"cell 1 of 1 ({label}) has no run: {dash.misfit}"]
