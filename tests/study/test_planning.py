"""What is planned, in which order, and what happens to it."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.paper import Cell
from experiments.report import wording
from experiments.study import planning
from experiments.study import start as starting
from experiments.study.cells import Protocols, UnavailableError
from experiments.study.fill import Results

from .. import synthetic

ROOT = Path(__file__).parent.parent.parent
FIXED = synthetic.FixedProtocols("laptop")
CELLS = [Cell("uuid", "lora", 8), Cell("uuid", "mora", 8)]
SETTING = FIXED.setting(CELLS[0])


def plan(records, cell=CELLS[0], seeds=(0, 1, 2), **options):
    return planning.plan(cell, Results("laptop", records, FIXED), seeds, **options)


RATES = (1e-3, 3e-3, 1e-2)  # the candidates of the fixed protocols; the middle one is the best


BY = "by loss on values, nats a token and by mean character accuracy over the training"


def search(best=3e-3, rates=RATES, diverged=(), soonest=None):
    """The runs of a search at seed 0: `best` has the lowest loss, and `soonest` (else `best`) the best curve."""
    made = []
    for rate in rates:
        run = (synthetic.diverged if rate in diverged else synthetic.record)(SETTING, rate, 0)
        if rate not in diverged:
            run.metrics["final"]["value_loss"] = 1 + abs(math.log(rate / best))
            for row in run.metrics["curve"]:
                row["char_accuracy"] = 90 - abs(math.log(rate / (soonest or best)))
        made.append(run)
    return made


def test_the_search_comes_first():
    made = plan([])
    assert [(r.rate, r.seed, r.state) for r in made.runs] == [(rate, 0, "missing") for rate in RATES]
    assert (made.stage, made.later) == ("search", 2)
    (runs,) = planning.sweeps(made)
    assert planning.arguments(SETTING, runs)[-2:] == ["training.learning_rate=0.001,0.003,0.01", "seed=0"]


def test_then_the_seeds_at_the_selected_rate():
    made = plan(search())
    assert made.stage == "seeds"
    assert [(r.rate, r.seed) for r in made.needed] == [(3e-3, 1), (3e-3, 2)]
    assert made.selection == f"0.003 {BY}"


def test_the_seeds_run_at_both_rates_where_the_rate_that_learns_soonest_is_not_the_one_that_ends_best():
    made = plan(search(3e-3, (3e-4, *RATES), soonest=1e-3))
    assert made.stage == "seeds"
    assert [(r.rate, r.seed) for r in made.needed] == [(3e-3, 1), (3e-3, 2), (1e-3, 1), (1e-3, 2)]
    assert made.selection == (
        "0.003 by loss on values, nats a token, and 0.001 by mean character accuracy over the training"
    )
    lines = [planning.arguments(SETTING, runs)[-2:] for runs in planning.sweeps(made)]
    assert lines == [[f"training.learning_rate={rate}", "seed=1,2"] for rate in ("0.003", "0.001")]


def test_the_search_goes_on_until_both_rates_have_neighbours():
    made = plan(search(3e-3, soonest=1e-3))
    assert (made.stage, [(r.rate, r.seed) for r in made.needed]) == ("search", [(3e-4, 0)])
    assert made.selection == f"{BY}; the learning rate 0.001 is the lowest that was tried so far"


@pytest.mark.parametrize(("best", "further"), [(1e-3, [3e-4, 1e-4, 3e-5, 1e-5]), (1e-2, [3e-2, 1e-1, 3e-1, 1.0])])
def test_a_search_goes_on_beyond_the_edge_one_rate_at_a_time_until_it_stops(best, further):
    """Where the lowest or highest rate is always the best: a rate more at a time, and at most four."""
    rates = list(RATES)
    for rate in further:
        made = plan(search(best, rates))
        assert (made.stage, made.later) == ("search", 2)
        assert [(r.rate, r.seed) for r in made.needed] == [(rate, 0)]
        rates.append(best := rate)
    made = plan(search(best, rates))
    edge = "lowest" if best < 1e-3 else "highest"
    assert made.selection.startswith(f"{best:g} {BY}; ")
    assert made.selection.endswith(f"the learning rate {best:g} is the {edge} that was tried")
    assert [(r.rate, r.seed) for r in made.needed] == [(best, 1), (best, 2)]


def test_a_search_that_went_on_ends_where_the_best_rate_has_neighbours():
    made = plan(search(3e-2, (*RATES, 3e-2, 1e-1)))
    assert [(r.rate, r.seed) for r in made.needed] == [(3e-2, 1), (3e-2, 2)]
    assert made.selection == f"0.03 {BY}"


def test_a_rate_that_diverged_is_a_neighbour():
    made = plan(search(1e-2, (*RATES, 3e-2), diverged=(3e-2,)))
    assert [(r.rate, r.seed) for r in made.needed] == [(1e-2, 1), (1e-2, 2)]


def test_an_interrupted_rate_beyond_the_candidates_goes_on():
    further = synthetic.record(SETTING, 3e-2, 0, status="running")
    made = plan([*search(1e-2), further])
    assert [(r.rate, r.state) for r in made.needed] == [(3e-2, "interrupted")]


def test_the_listed_candidates_alone():
    made = plan(search(1e-2), search="listed")
    assert [(r.rate, r.seed) for r in made.needed] == [(1e-2, 1), (1e-2, 2)]
    assert made.selection.endswith("over the training; the learning rate 0.01 is the highest that was tried")


def test_a_single_candidate_gets_neighbours_on_both_sides(monkeypatch):
    one = dataclasses.replace(SETTING, candidates=(5e-5,))
    monkeypatch.setattr(FIXED, "setting", lambda cell: one)
    assert [r.rate for r in plan([]).needed] == [5e-5]
    first = synthetic.record(one, 5e-5, 0)
    assert [(r.rate, r.seed) for r in plan([first]).needed] == [(3e-5, 0), (1e-4, 0)]
    made = plan([first], search="listed")
    assert [(r.rate, r.seed) for r in made.needed] == [(5e-5, 1), (5e-5, 2)]
    assert made.selection == "5e-05 by only rate tried; the learning rate 5e-05 is the only one that was tried"


def test_a_diverged_candidate_has_been_tried_and_a_failed_one_has_not():
    good = search(1e-3, (3e-4, 1e-3, 3e-3))
    assert [r.rate for r in plan([*good, synthetic.diverged(SETTING, 1e-2, 0)]).needed] == [1e-3, 1e-3]
    broken = synthetic.record(SETTING, 1e-2, 0, status="failed")
    assert [(r.rate, r.state) for r in plan([*good, broken]).needed] == [(1e-2, "failed")]
    abandoned = plan([*good, broken], abandoned={SETTING.key(1e-2, 0)})
    assert [(r.rate, r.seed) for r in abandoned.needed] == [(1e-3, 1), (1e-3, 2)]


def test_a_failed_candidate_is_no_neighbour_and_is_not_passed_over():
    broken = synthetic.record(SETTING, 1e-2, 0, status="failed")
    made = plan([*search(3e-3, (1e-3, 3e-3)), broken], abandoned={SETTING.key(1e-2, 0)})
    assert [(r.rate, r.seed) for r in made.needed] == [(3e-3, 1), (3e-3, 2)]
    assert made.selection.endswith("over the training; the learning rate 0.003 is the highest that was tried")


def test_an_interrupted_run_goes_on():
    made = plan([synthetic.record(SETTING, 1e-2, 0, status="running")])
    assert [r.state for r in made.runs] == ["missing", "missing", "interrupted"]


def test_a_run_whose_process_lives_is_running_and_still_needed():
    """With a record or without one, and also where the record is that of an earlier failure."""
    records = [
        synthetic.record(SETTING, 1e-2, 0, status="running"),
        synthetic.record(SETTING, 3e-3, 0, status="failed"),
    ]
    made = plan(records, alive={SETTING.key(rate, 0) for rate in SETTING.candidates})
    assert [r.state for r in made.runs] == ["running", "running", "running"]
    assert len(made.needed) == 3
    assert planning.states(made) == "3 running"
    finished = [synthetic.record(SETTING, 1e-2, 0), synthetic.diverged(SETTING, 3e-3, 0)]
    made = plan(finished, alive={SETTING.key(rate, 0) for rate in SETTING.candidates})
    assert [r.state for r in made.runs] == ["running", "diverged", "done"]


def test_without_a_search_the_protocols_rate_is_used():
    made = plan([], search="off")
    assert {r.rate for r in made.runs} == {SETTING.default_rate}
    assert [r.seed for r in made.runs] == [0, 1, 2]


def test_what_is_not_trained_is_run_once():
    made = plan([], Cell("math", "none"))
    assert len(made.runs) == 1
    assert not any("learning_rate" in a for a in planning.arguments(made.setting, made.runs))


class FakeRunPy:
    """Does what run.py would: leaves records. `breaks` are the (method, rate) that fail."""

    def __init__(self, breaks=(), stop_after=None):
        self.records, self.breaks, self.commands, self.stop_after = {}, set(breaks), [], stop_after

    def plan(self, i, abandoned):
        return plan(list(self.records.values()), CELLS[i], abandoned=abandoned)

    def __call__(self, command):
        self.commands.append(command)
        if self.stop_after is not None and len(self.commands) > self.stop_after:
            return 130
        given = dict(a.split("=") for a in command if "=" in a)
        setting = FIXED.setting(next(c for c in CELLS if c.method == given["method"]))
        for rate in map(float, given["training.learning_rate"].split(",")):
            for seed in map(int, given["seed"].split(",")):
                status = "failed" if (given["method"], rate) in self.breaks else "finished"
                made = synthetic.record(setting, rate, seed, status=status)
                assert self.records.get(made.key) is None or self.records[made.key].status != "finished", "run twice"
                self.records[made.key] = made
        return int(any(r.status == "failed" for r in self.records.values()))


def start(fake, said=None):
    say = (lambda line: None) if said is None else said.append
    return starting.run_all(["LoRA", "MoRA"], fake.plan, ["paths.results=r"], say, start=fake)


def test_all_cells_are_run_and_nothing_twice():
    fake = FakeRunPy()
    assert start(fake) == 0
    assert len(fake.records) == 10
    assert start(fake) == 0
    assert len(fake.commands) == 4


def test_it_goes_on_where_it_was_interrupted():
    fake = FakeRunPy(stop_after=2)
    assert start(fake) == 130
    assert len(fake.records) == 5
    fake.stop_after = None
    assert start(fake) == 0
    assert len(fake.records) == 10


def test_a_failed_cell_does_not_stop_the_others():
    fake, said = FakeRunPy(breaks={("lora", 1e-2)}), []
    assert start(fake, said) == 1
    assert "cell 1 of 2 (LoRA): the run at learning rate 0.01, seed 0, did not finish (failed)" in said
    assert sum(r.status == "finished" for r in fake.records.values()) == 2 + 2 + 5
    assert sum(r.status == "failed" for r in fake.records.values()) == 1


@pytest.mark.parametrize(("code", "requeued"), [(0, []), (1, []), (130, ["requeue 7_1"])])
def test_the_slurm_script_runs_its_sweep_and_queues_itself_again(tmp_path, code, requeued):
    """With stand-ins for srun and scontrol that write down what they are told."""
    script = tmp_path / "job.sh"
    script.write_text(starting.slurm_script([plan([]), plan([], CELLS[1])], ["paths.results=a b"]))
    for name, ending in (("srun", f"exit {code}"), ("scontrol", "")):
        stand_in = tmp_path / name
        stand_in.write_text(f"""#!/bin/bash\n(IFS='|'; echo "{name}|$*") >> {tmp_path}/told\n{ending}\n""")
        stand_in.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert subprocess.run(["bash", script], env=env).returncode == code
    srun, *scontrol = (tmp_path / "told").read_text().splitlines()
    _, ntasks, *command = srun.split("|")
    assert ntasks == "--ntasks=1"
    assert command[:3] == ["python", "run.py", "-m"]
    assert "method=mora" in command
    assert command[-1] == "paths.results=a b"
    assert [line.replace("|", " ") for line in scontrol] == [f"scontrol {r}" for r in requeued]
    text = script.read_text()
    for wanted in ("array=0-1", "time=24:00:00", "signal=USR2@180", "requeue", "open-mode=append"):
        assert f"#SBATCH --{wanted}\n" in text


def test_the_slurm_script_of_nothing_does_nothing(tmp_path):
    done = subprocess.run(
        ["bash", "-c", starting.slurm_script([], [])], env={"SLURM_ARRAY_TASK_ID": "0"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "there is nothing to run\n")


INTERRUPTIBLE = """
import signal, sys, time
count = 0
def stop(*_):
    global count
    count += 1
    print('checkpoint kept', flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
print('training', flush=True)
time.sleep(30)
"""


def test_an_interrupt_reaches_the_run_once_and_is_waited_for():
    code = (
        f"import signal, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "from experiments.study import start\n"
        f"sys.exit(start.sweep([sys.executable, '-c', {INTERRUPTIBLE!r}]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "training\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
        assert process.stdout.read() == "checkpoint kept\n"
    assert process.returncode == 130


@pytest.mark.slow
def test_table_2_at_smoke_scale_killed_half_way(tmp_path):
    command = [
        sys.executable,
        "scripts/plan.py",
        "--table",
        "2",
        "--scale",
        "smoke",
        "--results",
        str(tmp_path),
        "--run",
    ]
    command += ["--rate-search", "listed", "logger=none"]
    runs = tmp_path / "runs"
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL) as first:
        while len(list(runs.glob("*.json"))) < 5:
            time.sleep(0.2)
        os.killpg(first.pid, signal.SIGINT)
    assert first.returncode == 130
    before = {p.name: p.read_bytes() for p in runs.iterdir() if b'"finished"' in p.read_bytes()}
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0
    assert all((runs / name).read_bytes() == content for name, content in before.items())
    # Seven cells with three rates, and with two more seeds at the best rate at the end. What is read during the
    # training may have another best rate, with two more seeds again.
    assert 7 * (3 + 2) <= len(list(runs.glob("*.json"))) <= 7 * (3 + 2 + 2)
    planned = subprocess.run([w for w in command if w != "--run"], cwd=ROOT, capture_output=True, text=True)
    assert "7 cells; 0 runs to do" in planned.stdout
    subprocess.run([sys.executable, "scripts/make_tables.py", "--results", tmp_path], cwd=ROOT, check=True)
    table = (tmp_path / "tables" / "smoke" / "table2.md").read_text()
    assert "Not run" not in table
    assert table.count("(3)") >= 30


class SearchingProtocols(synthetic.FixedProtocols):
    """Protocols that search the steps between merges beside the learning rate."""

    def setting(self, cell):
        setting = super().setting(cell)
        fixed = any(option.startswith("method.restart_every=") for option in cell.options)
        return setting if fixed else dataclasses.replace(setting, searched=(("method.restart_every", (10, 20)),))


def test_a_search_goes_through_all_candidates_of_a_further_setting_then_runs_the_seeds_of_the_best():
    protocols, cell = SearchingProtocols("laptop"), Cell("uuid", "relora", 8)
    variants = protocols.setting(cell).variants
    assert [v.options for v in variants] == [("method.restart_every=10",), ("method.restart_every=20",)]

    def stage(records, **options):
        return planning.plan(cell, Results("laptop", records, protocols), (0, 1, 2), **options)

    def runs(variant, loss):
        setting = protocols.setting(variant)
        done = [synthetic.record(setting, rate, 0) for rate in RATES]
        for run, rate in zip(done, RATES, strict=True):
            run.metrics["final"]["value_loss"] = loss + abs(math.log(rate / 3e-3))
            for row in run.metrics["curve"]:
                row["char_accuracy"] = 90 - loss - abs(math.log(rate / 3e-3))
        return done

    first = stage([])
    assert (first.stage, first.cell, first.later) == ("search", variants[0], 2 + 3)
    assert planning.arguments(first.setting, first.needed)[-3:] == [
        "method.restart_every=10",
        "training.learning_rate=0.001,0.003,0.01",
        "seed=0",
    ]
    second = stage(runs(variants[0], 0.5))
    assert (second.stage, second.cell) == ("search", variants[1])
    searched = [*runs(variants[0], 0.5), *runs(variants[1], 0.4)]
    seeds = stage(searched)
    assert (seeds.stage, seeds.cell) == ("seeds", variants[1])
    assert [(r.rate, r.seed) for r in seeds.needed] == [(3e-3, 1), (3e-3, 2)]
    assert "the best of 2 variants" in seeds.selection
    filled = Results("laptop", searched, protocols).cell(cell)
    assert (filled.cell, len(filled.variants)) == (variants[1], 2)
    assert wording.rate_search(filled).endswith(
        "; method.restart_every=20 of method.restart_every=10: 0.5; method.restart_every=20: 0.4"
    )


def test_a_run_that_was_tried_is_abandoned_in_its_own_variant_alone():
    protocols, cell = SearchingProtocols("laptop"), Cell("uuid", "relora", 8)
    one, two = (protocols.setting(variant) for variant in protocols.setting(cell).variants)
    tried = {one.key(rate, 0) for rate in RATES}
    plan_now = planning.plan(cell, Results("laptop", [], protocols), (0, 1, 2), abandoned=tried)
    assert plan_now.cell == two.cell


def test_a_search_of_which_no_run_left_a_record_is_no_end_of_the_plan():
    """A run that was refused leaves no record. The cells that come after such a cell are still to be planned."""
    protocols, cell = SearchingProtocols("laptop"), Cell("uuid", "relora", 8)
    variants = [protocols.setting(variant) for variant in protocols.setting(cell).variants]
    tried = {variant.key(rate, 0) for variant in variants for rate in RATES}
    plan_now = planning.plan(cell, Results("laptop", [], protocols), (0, 1, 2), abandoned=tried)
    assert (plan_now.cell, plan_now.needed) == (variants[0].cell, [])


def test_the_papers_searches_at_paper_scale():
    """Section 3.2: ReLoRA merges every 1,000 or 2,000 steps, LoRA+ has a ratio of 2 or 4."""
    paper_scale = Protocols("paper")
    assert dict(paper_scale.setting(Cell("math", "relora", 8)).searched) == {"method.restart_every": (1000, 2000)}
    assert dict(paper_scale.setting(Cell("math", "lora_plus", 8)).searched) == {"method.lr_ratio": (2, 4)}
    assert paper_scale.setting(Cell("math", "lora", 8)).searched == ()
    keys = {paper_scale.setting(v).cell_key for v in paper_scale.setting(Cell("math", "lora_plus", 8)).variants}
    assert len(keys) == 2


class OneWrong(synthetic.FixedProtocols):
    """Protocols that search alpha, and do not know one of its candidates."""

    def setting(self, cell):
        if "method.alpha=-4" in cell.options:
            raise UnavailableError("method.alpha must be a positive number, got -4")
        made = super().setting(cell)
        return made if cell.options else dataclasses.replace(made, searched=(("method.alpha", (8, -4)),))


def test_a_candidate_that_cannot_be_planned_is_not_left_out():
    """Else the table would say that the best of the candidates was taken."""
    made = planning.plan(CELLS[0], Results("laptop", [], OneWrong("laptop")), (0, 1, 2))
    assert made.unavailable == "method.alpha must be a positive number, got -4"
    assert not made.needed
