"""The benchmark measures what its page names, and stores each measurement whole. No test here checks a time."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from experiments.cli import script
from scripts import benchmark
from scripts.benchmarks import growth, league, linear, memory, models, page, stages, targets, timing

from .conftest import ROOT
from .train.test_all_methods import expected_warnings

JSON, PAGE = ROOT / "results" / "benchmark.json", ROOT / "docs" / "performance.md"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(linear, "SHAPES", ((24, 40),))
    monkeypatch.setattr(linear, "RANKS", (8,))
    monkeypatch.setattr(linear, "TOKENS", 16)
    monkeypatch.setattr(memory, "SHAPES", ((24, 40), (4096, 4096)))


def run(tmp_path, *arguments):
    files = ["--output", str(tmp_path / "b.json"), "--page", str(tmp_path / "b.md")]
    return script.guarded(lambda: benchmark.main([*arguments, *files]))


def test_a_part_is_measured_stored_and_rendered_and_another_joins_it(small, tmp_path, capsys):
    assert run(tmp_path, "--quick", "--only", "memory") == 0
    first = json.loads((tmp_path / "b.json").read_text())
    assert list(first["parts"]) == ["memory"]
    part = first["parts"]["memory"]
    assert part["quick"] is True
    assert part["provenance"]["packages"]["torch"]
    assert len(part["load_average"]) == 3
    assert {row["method"] for row in part["rows"]} == {"frozen", "lora", "dora", *linear.OPERATORS}
    text = (tmp_path / "b.md").read_text()
    assert text == page.render(first)
    assert text in capsys.readouterr().out
    assert "| met" in text  # the bytes of sharing are a count, the same on every machine
    assert run(tmp_path, "--quick", "--only", "linear") == 0
    both = json.loads((tmp_path / "b.json").read_text())
    assert both["parts"].keys() == {"memory", "linear"}
    assert both["parts"]["memory"] == part
    rows = both["parts"]["linear"]["rows"]
    assert all(0 < r["time"]["min"] <= r["time"]["q1"] <= r["time"]["median"] <= r["time"]["q3"] for r in rows)
    assert all("against_lora" in row for row in rows if row["method"] != "frozen")
    assert run(tmp_path, "--render", "--check") == 0


@pytest.fixture
def tiny_league(small, monkeypatch):
    """The methods of the league, on a model of two layers."""
    monkeypatch.setattr(league, "MODEL", "tiny")
    monkeypatch.setattr(league, "LENGTH", 8)
    return league.configs()


@pytest.mark.slow
@expected_warnings
def test_every_method_with_an_adapter_is_a_row(tiny_league, tmp_path):
    assert run(tmp_path, "--quick", "--only", "league") == 0
    rows = json.loads((tmp_path / "b.json").read_text())["parts"]["league"]["rows"]
    assert [row["method"] for row in rows] == [r.method.label for name, r in tiny_league.items() if name != "lora"]
    assert [row["method"] for row in rows if "refused" in row] == []
    assert all(row["saved"]["value"] > 0 and row["parameters"]["value"] <= 1 for row in rows)


@pytest.mark.slow
def test_the_rows_of_the_league(tiny_league, tmp_path, monkeypatch):
    runs = tiny_league
    assert {"lora", "dora", "mora", "randproj"} <= runs.keys()
    assert "fft" not in runs
    chosen = {name: runs[name] for name in ("lora", "dora", "mora")}
    method = runs["dora"].method  # at the rank of the LoRA, as in its paper, DoRA exceeds the budget
    chosen["dora"] = runs["dora"].replace(method=method.replace(peft=method.peft | {"r": method.rank}))
    chosen["broken"] = runs["mora"].replace(
        method=runs["mora"].method.replace(label="broken", peft={"peft_type": "NO"})
    )
    monkeypatch.setattr(league, "configs", lambda: chosen)
    assert run(tmp_path, "--quick", "--only", "league") == 0
    dora, mora, broken = json.loads((tmp_path / "b.json").read_text())["parts"]["league"]["rows"]
    assert (dora["method"], mora["method"]) == ("DoRA", "MoRA")
    assert mora["parameters"]["value"] <= 1 < dora["parameters"]["value"]
    assert mora["saved"]["value"] < 1 < dora["saved"]["value"]
    assert all(row[name]["value"] > 0 for row in (dora, mora) for name in ("linear", "step", "peak"))
    assert "peft_type must be one of" in broken["refused"]
    assert "peft_type must be one of" in (tmp_path / "b.md").read_text()


@pytest.mark.slow
def test_thousands_of_records_and_cells(monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "RECORDS", 200)
    monkeypatch.setattr(growth, "CELLS", 20)
    assert run(tmp_path, "--quick", "--only", "growth") == 0
    rows = {row["command"]: row for row in json.loads((tmp_path / "b.json").read_text())["parts"]["growth"]["rows"]}
    assert all(row["seconds"] > 0 for row in rows.values())
    assert rows[growth.PAGE]["bytes"] > 100_000
    assert (
        rows[growth.COMPOSED]["ratio"]["value"] == rows[growth.COMPOSED]["seconds"] / rows[growth.BY_HYDRA]["seconds"]
    )


def test_records_are_multiplied_whatever_their_costs(tmp_path):
    everywhere = [json.loads(path.read_bytes()) for path in (growth.ROOT / "results").rglob("runs/*.json")]
    assert any("seconds" not in record["cost"] for record in everywhere)  # a training that diverged
    growth.grow(tmp_path / "runs", len(everywhere))
    grown = [json.loads(path.read_bytes()) for path in (tmp_path / "runs").glob("*.json")]
    assert len({record["key"] for record in grown}) == len(everywhere)


def test_time_counts_for_the_inner_stage_alone(monkeypatch):
    now = [5.0]
    monkeypatch.setattr(stages.time, "perf_counter", lambda: now[0])
    clock = stages.Clock(now[0])

    def wait(seconds):
        now[0] += seconds

    def train():
        wait(3)
        work.measure()
        wait(4)

    def measure():
        wait(10)
        raise KeyError("a stage ends with an error too")

    work = SimpleNamespace(train=train, measure=measure)
    clock.timed(work, "train", stages.STEPS)
    clock.timed(work, "measure", stages.CURVE)
    wait(1)
    with pytest.raises(KeyError):
        work.train()
    wait(2)
    clock.charge()
    assert (clock.seconds[stages.START], clock.seconds[stages.STEPS], clock.seconds[stages.CURVE]) == (3, 3, 10)
    assert (clock.calls[stages.STEPS], clock.calls[stages.CURVE]) == (1, 1)


@pytest.mark.slow
def test_the_stages_of_a_run_add_up_to_its_time(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "RUN", ("method=mora", "task=uuid", "logger=none"))
    assert run(tmp_path, "--quick", "--only", "stages") == 0
    *rows, whole = json.loads((tmp_path / "b.json").read_text())["parts"]["stages"]["rows"]
    assert [row["stage"] for row in rows] == list(stages.WORK)
    assert sum(row["seconds"] for row in rows) == pytest.approx(whole["seconds"], abs=0.01)
    idle = {row["stage"] for row in rows if not row["seconds"]}
    assert idle == {stages.MIRROR}


def test_the_committed_page_is_what_the_committed_measurement_gives():
    done = subprocess.run(
        [sys.executable, "scripts/benchmark.py", "--render", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_committed_measurement_speaks_to_every_target():
    parts = json.loads(JSON.read_text())["parts"]
    assert {target.part for target in targets.TARGETS} <= parts.keys() <= page.TITLES.keys()
    assert "not measured" not in PAGE.read_text()
    for target in targets.TARGETS:
        assert target.worst(parts[target.part]["rows"])


def test_a_stale_page_is_noticed_and_left(tmp_path, capsys):
    shutil.copy(JSON, tmp_path / "b.json")
    (tmp_path / "b.md").write_text("old")
    assert run(tmp_path, "--render", "--check") == 1
    assert (tmp_path / "b.md").read_text() == "old"


@pytest.mark.parametrize("arguments", [("--only", "everything"), ("--only", ""), ("--check",), ("--speed",)])
def test_a_bad_argument_is_one_line_and_2(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run(tmp_path, *arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


PART = {"quick": True, "cores": 2, "load_average": [0.0], "seconds": 1.0, "provenance": {}, "rows": []}


@pytest.mark.parametrize("action", [("--quick", "--only", "memory"), ("--render",)], ids=lambda action: action[0])
@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"schema": 99, "parts": {}}', '{"parts": {}}', '{"schema": 1, "parts": []}'),
        *(json.dumps({"schema": 1, "parts": {"linear": part}}) for part in (1, {}, PART | {"rows": [1]})),
        *(json.dumps({"schema": 1, "parts": {"linear": PART | {name: None}}}) for name in PART),
    ],
)
def test_a_file_that_is_no_measurement_is_one_line_and_left_alone(content, action, tmp_path, capsys):
    (tmp_path / "b.json").write_text(content)
    assert run(tmp_path, *action) == 2
    assert (tmp_path / "b.json").read_text() == content
    error = capsys.readouterr().err
    assert "is not a measurement" in error
    assert error.count("\n") == 1


def test_the_page_says_that_no_gpu_was_measured_until_a_card_has_a_file():
    measured = json.loads(JSON.read_text())
    assert "**Nothing was measured on a GPU.**" in page.render(measured)
    time = {"median": 0.002, "q1": 0.001, "q3": 0.003, "min": 0.001, "rounds": 5}
    layer = {"in": 48, "out": 80, "tokens": 16, "r": 8, "adapter": "float32", "mode": "eager", "method": "lora"}
    layer |= {"time": time, "against_frozen": {"value": 1.25}, "against_lora": {"value": 1.0}}
    step = {"method": "lora", "kernels": "transformers", "rows": 2, "length": 8, "time": time}
    step |= {"tokens_per_second": 8000.0, "peak": 2**20}
    failed = {"status": "failed", "reason": "1 of 2 rows failed", "rows": [{"test": "a", "error": "b"}]}
    parts = {"tests": failed, "layer-48x80": {"status": "done", "reason": "", "rows": [layer, {"skipped": "unsloth"}]}}
    parts["step"] = {"status": "done", "reason": "", "rows": [step]}
    text = page.render(measured, [{"card": "Some Card", "parts": parts}])
    assert "Nothing was measured" not in text
    assert "### Some Card" in text
    assert "1 of 2 rows failed" in text
    assert "25.0 %" in text
    assert "8,000" in text


def test_an_interrupted_part_leaves_those_before_it(small, tmp_path, monkeypatch):
    assert run(tmp_path, "--quick", "--only", "memory") == 0
    before = (tmp_path / "b.json").read_bytes()
    monkeypatch.setattr(linear, "measure", lambda quick: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(tmp_path, "--quick", "--only", "linear") == 130
    assert (tmp_path / "b.json").read_bytes() == before


def test_candidates_take_turns_in_both_directions():
    calls = []
    samples = timing.alternate({n: lambda n=n: calls.append(n) for n in "abc"}, 0.0, (3, 5))
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(times) for name, times in samples.items()} == dict.fromkeys("abc", 3)


def test_ratios_are_of_medians_with_the_quartiles_within_rounds():
    samples = {"base": [1.0, 1.0, 2.0], "lora": [3.0, 3.0, 5.0], "mora": [2.0, 1.5, 3.0]}
    assert timing.ratio(samples, "mora", "base")["value"] == 2.0
    less = timing.ratio(samples, "mora", "lora", less="base")
    assert less["value"] == 0.5
    assert (less["q1"], less["q3"]) == (0.2917, 0.4167)  # of 0.5, 0.25 and 1 / 3
    assert less["of_minima"] == 0.25
    assert timing.summary([4.0, 1.0, 3.0, 2.0]) == {"median": 2.5, "q1": 1.75, "q3": 3.25, "min": 1.0, "rounds": 4}
    close = timing.summary([1.00004, 1.00003])  # all are rounded alike, so none passes another
    assert close["min"] <= close["q1"] <= close["median"] <= close["q3"]


def started(command, median):
    time = {"median": median, "q1": median, "q3": median, "min": median, "rounds": 3}
    return {"command": command, "time": time}


def test_the_worst_case_decides_and_a_miss_names_its_cases():
    rows = [started("run.py --help", 1.0), started("run.py --cfg job", 1.6), started("a finished cell", 1.9)]
    part = {"load_average": [7.0, 1.0, 1.0], "cores": 2, "rows": rows}
    text = page.targets({"startup": part})
    (missed,) = (line for line in text.splitlines() if "not met" in line and line.startswith("|"))
    assert "1.600 s" in missed
    (reason,) = (line for line in text.splitlines() if line.startswith("* "))
    assert "(run.py --cfg job)" in reason
    assert "a load of 7.0 on 2 cores" in reason
    (met,) = (line for line in text.splitlines() if "| met" in line)
    assert "a finished cell" in met
    assert text.count("not measured") == len(targets.TARGETS) - 2


def test_at_least_is_not_at_most():
    (target,) = (t for t in targets.TARGETS if t.part == "harness")
    rows = [{"loop": "run.py", "method": m, "ratio": {"value": v}} for m, v in (("lora", 0.99), ("mora", 0.94))]
    row, value = target.worst(rows)
    assert row["method"] == "mora"
    assert not target.met(value["value"])
    assert target.met(0.95)


def test_peak_memory_is_what_was_held_at_once():
    assert memory.peak_bytes(lambda: [torch.empty(1000) for _ in range(3)]) == 12_000
    assert memory.peak_bytes(lambda: [torch.empty(1000).numel() for _ in range(3)]) == 4_000


def test_copies_share_the_frozen_weights_and_the_plain_way_is_the_same_function():
    from mora import MoraConfig

    base = models.base("tiny")
    config = MoraConfig(operator="rotation", target_modules=models.TARGETS, init_weights=False)
    torch.manual_seed(0)
    fused = models.adapted(base, config)
    torch.manual_seed(0)
    plain = models.compose_plainly(models.adapted(base, config))
    weights = [dict(m.named_parameters())["base_model.model.lm_head.weight"] for m in (fused, plain)]
    assert weights[0] is weights[1] is base.lm_head.weight
    ids = torch.arange(12)[None]
    torch.testing.assert_close(fused(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(ids).logits, base(ids).logits, rtol=1e-2, atol=1e-2)
