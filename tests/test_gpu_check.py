"""The control flow of the GPU check, with stand-in parts and a stand-in device. No test here measures anything."""

import json
import re
import subprocess
import sys

import pytest

from experiments.cli import script
from scripts import gpu_check, gpu_wheels
from scripts.gpu import layer_times, parts, step_times
from scripts.gpu.card_file import CardFile
from scripts.gpu.device import StandIn

from .conftest import ROOT


@pytest.fixture
def device():
    return StandIn()


def run_all(tmp_path, behaviour, seconds=1000.0, names=("tests", "step", "table2"), clock=None):
    """Run parts that end as `behaviour` says. Gives the exit code, the started parts, and the file afterwards."""
    started, lines = [], []

    def open_file():
        return CardFile(tmp_path, "A Card")

    def start(name, limit):
        started.append((name, limit))
        file = open_file()
        file.begin(name, {})
        if status := behaviour[name]:
            file.end(name, *status)
        return 0 if status == ("done",) else -11

    code = parts.run_all(names, open_file, seconds, start, lines.append, clock or (lambda: 0.0))
    return code, started, open_file().parts, lines


def test_a_part_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path):
    behaviour = {"tests": ("failed", "no luck"), "step": None, "table2": ("done",)}
    code, started, content, lines = run_all(tmp_path, behaviour)
    assert (code, [name for name, _ in started]) == (1, ["tests", "step", "table2"])
    assert {name: part["status"] for name, part in content.items()} == {
        "tests": "failed",
        "step": "failed",
        "table2": "done",
    }
    assert content["step"]["reason"] == "the process of this part ended with code -11"
    assert "tests: failed: no luck" in lines
    behaviour |= {"tests": ("done",), "step": ("done",)}
    code, started, content, _ = run_all(tmp_path, behaviour)
    assert (code, [name for name, _ in started]) == (0, ["tests", "step"])
    assert {part["status"] for part in content.values()} == {"done"}


def test_no_part_gets_more_than_the_time_that_is_left(tmp_path):
    moments = iter([0.0, 0.0, 210.0, 500.0])
    behaviour = dict.fromkeys(("tests", "step", "table2"), ("done",))
    code, started, content, _ = run_all(tmp_path, behaviour, 300.0, clock=lambda: next(moments))
    assert started == [("tests", 100.0), ("step", 30.0)]
    assert (code, content["table2"]["status"]) == (0, "stopped")
    assert content["table2"]["reason"].startswith("no time was left")


def test_a_part_that_was_killed_at_the_end_of_its_time_has_not_failed(tmp_path):
    moments = iter([0.0, 0.0, 150.0])
    code, _, content, _ = run_all(tmp_path, {"tests": None}, 300.0, ["tests"], lambda: next(moments))
    assert code == 0
    assert (content["tests"]["status"], content["tests"]["reason"]) == ("stopped", "the time of this part was up")


@pytest.mark.parametrize(
    ("error", "code", "status", "reason"),
    [
        (None, 0, "done", ""),
        (RuntimeError("an illegal\nmemory access"), 1, "failed", "an illegal memory access"),
        (KeyboardInterrupt(), 130, "stopped", "stopped before its end; the same command continues"),
    ],
)
def test_the_end_of_a_part_is_in_the_file_with_its_rows(error, code, status, reason, tmp_path, device, monkeypatch):
    def measure(device, emit, results):
        emit({"method": "lora", "time": {"median": 0.25}})
        if error:
            raise error

    monkeypatch.setattr(step_times, "measure", measure)
    lines = []
    assert parts.run_part("step", device, tmp_path, lines.append) == code
    content = json.loads((tmp_path / "gpu" / "rehearsal.json").read_text())
    assert content["card"] == "rehearsal"
    part = content["parts"]["step"]
    assert (part["status"], part["reason"]) == (status, reason)
    assert part["rows"] == [{"method": "lora", "time": {"median": 0.25}}]
    assert part["provenance"]["packages"]["torch"]
    assert lines == ["  method lora, time 0.25"]


def test_a_row_that_failed_fails_its_part_and_a_skipped_row_does_not(tmp_path, device, monkeypatch):
    rows = [{"method": "liger", "skipped": "liger_kernel is not installed"}]
    monkeypatch.setattr(step_times, "measure", lambda device, emit, results: [emit(row) for row in rows])
    assert parts.run_part("step", device, tmp_path, lambda line: None) == 0
    rows.append({"method": "lora", "error": "out of memory"})
    assert parts.run_part("step", device, tmp_path, lambda line: None) == 1
    reason = CardFile(tmp_path / "gpu", "rehearsal").parts["step"]["reason"]
    assert reason == "1 of 2 rows failed: method lora, error out of memory"


def test_a_process_whose_time_is_up_is_interrupted_and_then_killed():
    assert parts.start_process(["sleep", "60"], 0.1) == -2
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    assert parts.start_process([sys.executable, "-S", "-c", deaf], 1.0, grace=0.1) == -9
    assert parts.start_process(["true"], 60.0) == 0


@pytest.mark.slow
def test_the_layer_rows_name_every_method_case_and_ratio(device, tmp_path):
    rows = []
    layer_times.measure(device, rows.append, tmp_path, (4096, 11008))
    assert not [row for row in rows if "error" in row]
    cases = {(row["r"], row["adapter"], row["mode"]) for row in rows}
    assert cases == {(case.r, case.adapter, case.mode) for case in layer_times.CASES}
    timed = [row for row in rows if "time" in row and row["method"] != layer_times.TRITON]
    assert len(timed) == len(layer_times.CASES) * 5
    assert all("against_frozen" in row and "against_lora" in row for row in timed if row["method"] != "frozen")
    assert len([row for row in rows if row["method"] == layer_times.TRITON]) == 4  # timed, or skipped with a reason
    assert rows[-1] | {"method": "lora (unsloth)", "skipped": "unsloth is not installed"} == rows[-1]


def test_a_layer_that_cannot_be_computed_leaves_the_others(device, tmp_path, monkeypatch):
    step = layer_times.step

    def broken(forward, trained, *others):
        if getattr(forward, "mora_M", None) is not None:
            return lambda: 1 / 0
        return step(forward, trained, *others)

    monkeypatch.setattr(layer_times, "step", broken)
    monkeypatch.setattr(layer_times, "CASES", layer_times.CASES[:1])
    rows = []
    layer_times.measure(device, rows.append, tmp_path, (4096, 4096))
    assert {row["method"]: row.get("error") for row in rows if "skipped" not in row} == {
        "frozen": None,
        "lora": None,
        "sharing": "division by zero",
        "decouple": "division by zero",
        "rotation": "division by zero",
    }


def test_a_step_is_timed_for_every_method(device, tmp_path):
    rows = []
    step_times.measure(device, rows.append, tmp_path)
    assert not [row for row in rows if "error" in row]
    assert [row["method"] for row in rows if "time" in row] == list(step_times.configs())
    assert all(row["tokens_per_second"] > 0 and row["peak"] > 0 for row in rows if "time" in row)
    assert rows[-1]["skipped"] == "liger_kernel is not installed"


def call(*arguments):
    return script.guarded(lambda: gpu_check.main([*arguments]))


def test_without_a_gpu_the_check_ends_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("experiments.cli.command.prepare_environment", lambda: None)
    assert call("--results", str(tmp_path)) == 2
    assert capsys.readouterr().err == "error: torch finds no CUDA GPU here; allowed without a GPU: --rehearse\n"
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_never_writes_to_the_results(capsys):
    assert call("--rehearse", "--results", str(ROOT / "results")) == 2
    assert "does not write to results/" in capsys.readouterr().err
    assert not (ROOT / "results" / "gpu" / "rehearsal.json").exists()


PART = {"status": "done", "reason": "", "rows": []}


@pytest.mark.parametrize(
    "content",
    [
        *({}, {"schema": 1, "parts": {}}, {"schema": 1, "card": "A Card", "parts": {"step": 1}}),
        *({"schema": 1, "card": "A Card", "parts": {"step": PART | {name: None}}} for name in PART),
    ],
)
def test_a_file_that_is_no_check_is_one_line_and_left_alone(content, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("experiments.cli.command.prepare_environment", lambda: None)
    path = tmp_path / "gpu" / "rehearsal.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    assert call("--rehearse", "--results", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "is not a file of the GPU check" in error
    assert error.count("\n") == 1
    assert json.loads(path.read_text()) == content


def test_the_wheels_are_what_the_machine_lacks():
    packages = gpu_wheels.missing()
    assert {"hydra-core", "omegaconf", "pydantic-core", "pytest", "aenum"} <= {*packages}
    assert not {"torch", "numpy", "transformers", "peft", "accelerate", "tokenizers"} & {*packages}


def test_the_folder_of_wheels_holds_the_model(tmp_path, monkeypatch, capsys):
    """pip needs a network; a stand-in writes one wheel of Python code and one of machine code."""
    names, calls = iter(["hydra_core-1.3.4-py3-none-any.whl", "pydantic_core-2.41.5-cp311-cp311-manylinux.whl"]), []

    def pip(*arguments):
        calls.append(arguments)
        for name in [*names] or ["pydantic_core-2.41.5-cp312-cp312-manylinux.whl"]:
            (tmp_path / "wheels" / name).write_bytes(b"wheel")

    monkeypatch.setattr(gpu_wheels, "pip", pip)
    monkeypatch.setenv("MORA_CACHE", str(tmp_path / "cache"))
    options = ["--output", str(tmp_path / "wheels"), "--model"]
    assert script.guarded(lambda: gpu_wheels.main(options)) == 2
    assert "holds no model; run `python scripts/prepare_data.py` first" in capsys.readouterr().err
    model = tmp_path / "cache" / "models" / gpu_wheels.MODEL
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    assert gpu_wheels.main([*options, "--python", "3.12"]) == 0
    assert (tmp_path / "wheels" / "cache" / "models" / gpu_wheels.MODEL / "model.safetensors").is_file()
    assert [name.name for name in sorted((tmp_path / "wheels").glob("*.whl"))] == [
        "hydra_core-1.3.4-py3-none-any.whl",
        "pydantic_core-2.41.5-cp312-cp312-manylinux.whl",
    ]
    assert calls[1][calls[1].index("--python-version") :][:2] == ("--python-version", "3.12")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_check_passes_its_rehearsal(tmp_path):
    """The tests marked gpu run on the CPU, every benchmark at tiny sizes, and Table 2 at smoke scale."""
    command = [sys.executable, "scripts/gpu_check.py", "--rehearse", "--results", str(tmp_path), "--minutes", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    content = json.loads((tmp_path / "gpu" / "rehearsal.json").read_text())["parts"]
    assert {name: part["reason"] for name, part in content.items()} == dict.fromkeys(parts.PARTS, ""), done.stderr
    assert done.returncode == 0
    written = re.findall(r"^def (test_\w+)", (ROOT / "tests" / "gpu" / "test_on_gpu.py").read_text(), re.M)
    assert {row["test"].split("[")[0] for row in content["tests"]["rows"]} == {*written}
    assert len(content["table2"]["rows"]) >= 2
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stdout.count("done before") == len(parts.PARTS)
