"""A sweep of run.py: its cells are checked before the first one runs, each is announced, a table ends the sweep."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from experiments import runner
from experiments.cli.composer import CellComposer
from experiments.cli.sweep import Sweep, SweepCell, announcement
from experiments.errors import ConfigError
from experiments.spec.compose import parse_once, register, search

from ..conftest import ROOT

OWN = ("scale=smoke", "logger=none", "hardware=cpu")


@pytest.fixture
def sweep(monkeypatch, tmp_path, capsys):
    """Arguments -> exit code, lines on stdout, lines on stderr, and the configurations that ran. Nothing is trained."""
    monkeypatch.syspath_prepend(str(ROOT))
    from hydra.core.global_hydra import GlobalHydra

    import run

    ran = []

    def execute(config, record, store):
        ran.append(config)
        if config.seed == 1:
            raise ConfigError("the model is too small")
        record.status, record.cost = "finished", {"seconds": 61.0, "trainable_parameters": 4}
        record.metrics = {"final": {"char_accuracy": 12.34}, "curve": []}
        if config.seed == 2:
            record.status, record.error = "failed", {"type": "FloatingPointError", "message": "diverged"}
            record.metrics = {"final": {}, "curve": []}
        store.write(record)
        return record

    monkeypatch.setattr(runner, "execute", execute)

    def call(*arguments, results=tmp_path / "results"):
        GlobalHydra.instance().clear()
        ran.clear()
        own = [o for o in OWN if not any(a.startswith(o.partition("=")[0] + "=") for a in arguments)]
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments, *own, f"paths.results={results}"])
        code = run.main()
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines(), list(ran)

    return call


def announced(lines: list[str]) -> list[str]:
    return [re.sub(r", about \d+ s left$", " (time left)", line) for line in lines if re.match(r"cell \d", line)]


def test_each_cell_is_announced_and_a_table_ends_the_sweep(sweep):
    code, out, err, ran = sweep("-m", "method=lora", "seed=0,1,2")
    assert code == 2
    assert len(ran) == 3
    assert err == ["error: the model is too small"]
    assert announced(out) == [
        "cell 1 of 3: seed=0",
        "cell 2 of 3: seed=1 (time left)",
        "cell 3 of 3: seed=2 (time left)",
    ]
    header, _, *rows = (re.split(r"  +", line.strip()) for line in out[-5:])
    assert header == ["cell", "state", "result", "training"]
    assert rows == [
        ["uuid-smoke-lora-r8-lr0.003-seed0", "finished", "char_accuracy 12.34", "61 s"],
        ["seed=1", "refused"],
        ["uuid-smoke-lora-r8-lr0.003-seed2", "failed", "FloatingPointError", "61 s"],
    ]
    # Finished cells do not run again, and are in the table.
    code, out, _, ran = sweep("-m", "method=lora,mora", "seed=0")
    assert (code, [config.method.name for config in ran]) == (0, ["mora"])
    assert [row.split()[:2] for row in out[-2:]] == [
        ["uuid-smoke-lora-r8-lr0.003-seed0", "finished"],
        ["uuid-smoke-mora-r8-lr0.003-seed0", "finished"],
    ]


@pytest.mark.parametrize("arguments", [("method=lora",), ("-m", "method=lora")], ids=" ".join)
def test_one_cell_is_not_announced(arguments, sweep):
    code, out, err, ran = sweep(*arguments)
    assert (code, err, len(ran)) == (0, [], 1)
    assert out[0].startswith("uuid-smoke-lora-r8-lr0.003-seed0: char_accuracy 12.34")
    assert not any("cell" in line and "finished" in line for line in out)


def test_a_dry_run_has_no_table(sweep, monkeypatch):
    monkeypatch.setattr("experiments.estimate.dry_run", SimpleNamespace(table=lambda config: "4 GiB"), raising=False)
    code, out, _, ran = sweep("-m", "method=lora", "seed=0,1", "dry_run=true")
    assert (code, ran) == (0, [])
    assert [re.sub(", about.*", "", line) for line in out] == [
        "cell 1 of 2: seed=0",
        "4 GiB",
        "cell 2 of 2: seed=1",
        "4 GiB",
    ]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ("method=lora,nope,mora", "seed=0,-1"),
            [
                "cell 2 of 6 (method=lora seed=-1): seed must be an integer from 0 to ",
                "cell 3 of 6 (method=nope seed=0): method must be one of adalora, asylora, boft",
                "cell 4 of 6 (method=nope seed=-1): method must be one of adalora, asylora, boft",
                "cell 6 of 6 (method=mora seed=-1): seed must be an integer from 0 to ",
            ],
        ),
        # Settings that do not fit each other, and a task without a setting that it needs.
        (("method=lora", "method.rank=8,9999"), ["cell 2 of 2 (method.rank=9999): method.rank is too large"]),
        (("task.pairs=16,null",), ["cell 2 of 2 (task.pairs=null): task.pairs is missing; task=uuid"]),
        # Hydra starts these cells in batches of one.
        (("hydra.sweeper.max_batch_size=1", "seed=0,-1"), ["cell 2 of 2 (seed=-1): seed must be"]),
        (("seed=-1",), ["seed must be an integer"]),
    ],
    ids=str,
)
def test_a_bad_cell_is_found_before_the_first_one_runs(arguments, lines, sweep, tmp_path):
    code, out, err, ran = sweep("-m", *arguments)
    assert (code, out, ran) == (2, [], [])
    assert len(err) == len(lines)
    for line, expected in zip(err, lines, strict=True):
        assert line.startswith(f"error: {expected}")
    assert not (tmp_path / "results").exists()


@pytest.mark.promise(
    "A path that begins with a ~, and a blank path, is refused or expanded, and no such folder is made."
)
@pytest.mark.parametrize("folder", ["~/runs", " "])
def test_a_wrong_folder_of_results_is_not_made(folder, sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err, ran = sweep("-m", "seed=0,3", results=f"'{folder}'")
    assert (code, out, ran) == (2, [], [])
    for number, line in enumerate(err):
        assert line.startswith(f"error: cell {number + 1} of 2 (seed={3 * number}): paths.results must be a path")
    assert len(err) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise("A sweep of no cell is refused in one line.")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *(([sweep], sweep) for sweep in ("seed=range(0)", "seed=glob(*)", "method=glob(zz*)")),
        (["seed=0,1", "+method.peft.use_dora=range(0)"], "+method.peft.use_dora=range(0)"),
        (["hydra.sweeper.max_batch_size=-1", "seed=glob(*)"], "seed=glob(*)"),
        (["method=glob(zz*)", "hydra.searchpath=[file:///]", "seed=range(0)"], "method=glob(zz*), seed=range(0)"),
    ],
    ids=str,
)
def test_a_sweep_of_no_cell_is_refused(arguments, named, sweep, tmp_path):
    code, out, err, ran = sweep("-m", *arguments)
    assert (code, out, ran) == (2, [], [])
    assert err == [f"error: {named}: the sweep has no value, so nothing would run"]
    assert not (tmp_path / "results").exists()


@pytest.mark.promise("A folder may have any name, and a study runs in the folder that the command line names.")
def test_a_pattern_finds_the_methods_in_a_folder_of_any_name(sweep, tmp_path):
    own = tmp_path / "it's=my [own], é"
    (own / "method").mkdir(parents=True)
    (own / "method" / "mine.yaml").write_text("defaults: [lora]\nname: mine\n")
    try:
        ran = sweep("-m", "--config-dir", str(own), "method=glob(min*)")[3]
        assert [config.method.name for config in ran] == ["mine"]
    finally:
        search([])


def test_the_cells_of_a_shuffled_sweep_run_in_the_order_in_which_they_were_checked(sweep):
    _, out, _, ran = sweep("-m", "seed=shuffle(range(3,40))", "method=none")
    seeds = [int(number) for line in announced(out) for number in re.findall(r"seed=(\d+)", line)]
    assert sorted(seeds) == list(range(3, 40))
    assert [config.seed for config in ran] == seeds


def test_a_bad_data_file_is_found_before_the_first_cell_runs(sweep, tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"instruction": "Say a.", "output": "a"}\n')
    bad.write_text('{"instruction": "Say a."}\n')
    code, _, err, ran = sweep("-m", "task=instruct", f"task.train_file={good},{bad}")
    assert (code, ran) == (2, [])
    (line,) = err
    assert re.match(r"error: cell 2 of 2 .*bad\.jsonl, line 1: column output is missing", line)


def test_a_fault_in_the_check_is_left_to_the_cell(sweep, monkeypatch, tmp_path):
    """A fault of this project in one cell must not stop the other cells."""
    from experiments.cli import sweep as module

    monkeypatch.setattr(module, "configuration", lambda composed, elsewhere: 1 / 0)
    code, _, err, ran = sweep("-m", "method=lora", "seed=0,3")
    assert (code, err, len(ran)) == (0, [], 2)


def test_the_time_left_is_that_of_the_cells_that_were_not_finished_before():
    sweep = Sweep()
    assert sweep.left(0) is None
    sweep.cells = [SweepCell("", Path(), finished=i in (1, 4)) for i in range(5)]
    assert sweep.left(0) is None
    sweep.seconds = [10.0, 20.0]
    assert sweep.left(2) == 30.0
    assert announcement(2, 5, "seed=2", 30.0) == "cell 3 of 5: seed=2, about 30 s left"
    assert announcement(0, 5, "seed=0", None) == "cell 1 of 5: seed=0"


def test_a_cell_is_composed_as_hydra_composes_it(sweep, monkeypatch):
    """Hydra composes each choice of files once, and every cell is what Hydra would compose for the cell alone."""
    compared, by_hydra = [], []

    def check(own, sweeper, cells):
        loader = sweeper.hydra_context.config_loader
        load = loader.load_sweep_config
        loader.load_sweep_config = lambda *arguments: by_hydra.append(arguments) or load(*arguments)
        composer = CellComposer(loader)
        for cell in cells:
            ours, theirs = composer(sweeper.config, cell), load(sweeper.config, cell)
            assert OmegaConf.to_container(ours) == OmegaConf.to_container(theirs)
            compared.append(cell)
        raise SystemExit(2)

    monkeypatch.setattr(Sweep, "check", check)
    for arguments, cells, compositions in (
        (["method=lora,mora", "seed=0,1", "training.learning_rate=0.1,${task.pairs}"], 8, 2),
        (["method.rank=1,8", "method.target_modules=[q_proj],all-linear", "task.pairs=${training.steps},32"], 8, 1),
        (["task=uuid,instruct", "+method.peft.use_dora=true,false", "quantization=none,nf4"], 8, 4),
        (["experiment=table2,table3", "model=tiny,'y z'"], 4, 2),
        (["task.pairs=64", "++task.pairs=16", "seed=0,1"], 2, 3),  # the order of the first two matters
    ):
        compared.clear()
        by_hydra.clear()
        assert sweep("-m", *arguments)[0] == 2
        assert (len(compared), len(by_hydra)) == (cells, compositions)


@pytest.mark.parametrize("group", ["method", "task", "scale"])
def test_a_file_with_the_name_of_another_file_is_refused(sweep, tmp_path, group):
    """Without a line `name`, a file has the name that it inherits, and its runs would count as the other's."""
    inherited = {"method": "lora", "task": "uuid", "scale": "smoke"}[group]
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(f"defaults: [{inherited}, _self_]\n")
    if group != "method":  # the protocol of the task and the scale
        (tmp_path / "protocol").mkdir()
        (tmp_path / "protocol" / {"task": "mine_smoke", "scale": "uuid_mine"}[group]).with_suffix(".yaml").write_text(
            "defaults: [uuid_smoke, _self_]\n"
        )
    for form in ([], ["-m"]):
        code, _, err, ran = sweep("--config-dir", str(tmp_path), *form, f"{group}=mine")
        assert (code, ran) == (2, [])
        assert f"error: {group}/mine.yaml: name must be mine, got {inherited}" in "\n".join(err)
    search([])


def test_another_sweeper_is_left_alone(monkeypatch):
    """Its cells are not known before they run."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.sweeper import Sweeper

    class OtherSweeper(Sweeper):
        def setup(self, **_): ...

        def sweep(self, arguments): ...

    made = OtherSweeper()
    monkeypatch.setattr(Plugins, "instantiate_sweeper", lambda plugins, **_: made)
    before = Plugins.instantiate_sweeper
    with Sweep().checked_first():
        assert Plugins.instance().instantiate_sweeper(config=None, hydra_context=None, task_function=None) is made
    assert vars(made) == {}
    assert Plugins.instantiate_sweeper is before


def test_a_text_is_parsed_once():
    """`register` replaces a function of OmegaConf that has no public name: this test fails if that has no effect."""
    register()
    before = parse_once.cache_info()
    assert [OmegaConf.create({"a": 1, "b": "${a} of once"}).b for _ in range(3)] == ["1 of once"] * 3
    after = parse_once.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits >= 2) == (1, True)
