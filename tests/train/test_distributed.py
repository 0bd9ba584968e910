"""Runs on several ranks give the same results as runs on one process. The ranks are real processes over gloo."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from experiments import runner
from experiments.store.records import Store

from ..conftest import ROOT, compose
from .on_ranks import TWO, assert_same_run, environment, only_record, run, settings, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
METHODS = ("fft", "lora", "lora +method.peft.bias=lora_only", "mora", "remora", "vera")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
INSTRUCT = ("task=instruct", "task.questions=2", "training.evaluate_every=3", "training.batch_size=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Settings -> the results folder of a run on one process."""

    @functools.cache
    def get(*arguments: str):
        results = tmp_path_factory.mktemp("alone")
        record = runner.run(compose(*arguments, "hardware=cpu", f"paths.results={results}"))
        assert record.status == "finished", record.error
        return results

    return get


@pytest.mark.parametrize("hardware", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_give_the_curve_and_the_weights_of_one(method, hardware, alone, tmp_path):
    arguments = settings(*method.split())
    code, err = run([*arguments, *TWO, f"hardware={hardware}", f"paths.results={tmp_path}"])
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))
    provenance = only_record(tmp_path).provenance
    assert (provenance["processes"], provenance["nodes"]) == (2, 1)
    assert provenance["sharding"] == {"ddp": "none", "fsdp": "full"}[hardware]


@pytest.mark.parametrize("method", ["mora", "remora", "fft"])
def test_blocks_that_are_recomputed_change_neither_the_curve_nor_what_is_saved(method, alone, tmp_path):
    """FSDP's own option for this wraps each block: the checkpoints and the saved adapter were empty."""
    arguments = settings(method)
    recomputed = "hardware.activation_checkpointing=true"
    code, err = run([*arguments, *TWO, "hardware=fsdp", recomputed, f"paths.results={tmp_path}"])
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))


@pytest.mark.parametrize("method", ["relora", "remora method.train_rest=true"])
def test_restarts_and_the_other_trained_weights_are_the_same_under_fsdp(method, alone, tmp_path):
    arguments = settings(*method.split(), "training.steps=6", "method.restart_every=2")
    code, err = run([*arguments, *TWO, "hardware=fsdp", f"paths.results={tmp_path}"])
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))


def test_rows_of_unequal_length_count_by_their_tokens(alone, tmp_path):
    """The loss is the mean over the tokens of all ranks: a mean of the ranks' means would weigh short rows more."""
    arguments = [a for a in settings("mora", *INSTRUCT) if not a.startswith("task.pairs")]
    code, err = run([*arguments, *TWO, "hardware=ddp", f"paths.results={tmp_path}"])
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))


@pytest.mark.parametrize("hardware", ["ddp", "fsdp"])
def test_interrupted_ranks_stop_and_the_same_command_continues(hardware, alone, tmp_path):
    """SIGTERM goes to the parent only, as from a scheduler; SIGINT goes to parent and ranks, as from a terminal."""
    arguments = settings("remora", "training.steps=24", "method.restart_every=4")
    command = [*arguments, *TWO, f"hardware={hardware}", f"paths.results={tmp_path}"]
    process = start(command, start_new_session=True)
    wait_for_a_checkpoint(tmp_path)
    descendants = psutil.Process(process.pid).children(recursive=True)
    if hardware == "fsdp":
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on from the last checkpoint" in err
    assert "Traceback" not in err
    assert only_record(tmp_path).status == "interrupted"
    assert all_end(descendants)
    sharded = [(c / "pytorch_model_fsdp_0").is_dir() for c in tmp_path.glob("checkpoints/*/*")]
    assert (hardware == "fsdp") in sharded
    code, err = run(command)
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))


@pytest.mark.parametrize("victim", ["a rank", "the parent"])
def test_no_process_outlives_a_killed_one(victim, tmp_path):
    command = settings("mora", "training.steps=4000", "training.evaluate_every=4000", *TWO, "hardware=ddp")
    process = start([*command, f"paths.results={tmp_path}"])
    wait_for_a_checkpoint(tmp_path)
    descendants = psutil.Process(process.pid).children(recursive=True)
    first, second = sorted((p for p in descendants if "spawn_main" in " ".join(p.cmdline())), key=lambda p: p.pid)
    os.kill(second.pid if victim == "a rank" else process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert all_end([first, second])
    record = only_record(tmp_path)
    if victim == "a rank":
        assert process.returncode == 1
        assert record.status == "failed"
        assert record.error["message"] == "rank 1 was ended by SIGKILL"
        assert "failed: rank 1 was ended by SIGKILL" in err
    else:
        assert process.returncode == -signal.SIGKILL
        assert record.status == "running"


def test_the_error_of_any_rank_is_the_error_of_the_run(tmp_path):
    """Rank 1 fails, and then rank 0 fails because rank 1 has ended. The record holds the error of rank 1."""
    script = changed_run(
        tmp_path,
        "from experiments.tasks import uuid\n"
        "def measure(*a):\n"
        "    if ranks.current().index:\n"
        "        raise ArithmeticError('of rank 1 alone')\n"
        "    return {}\n"
        "uuid.UuidTask.measure = measure\n",
    )
    done = printed([*script, *settings("mora", *TWO, "hardware=ddp"), f"paths.results={tmp_path}"])
    assert done.returncode == 1, done.stderr
    record = only_record(tmp_path)
    assert record.status == "failed"
    traceback = f"failures/{record.key}.txt"
    expected = {"type": "ArithmeticError", "message": "of rank 1 alone", "traceback": traceback, "rank": "1"}
    assert record.error == expected
    assert (tmp_path / traceback).read_text().endswith("ArithmeticError: of rank 1 alone\n")


def test_a_rank_that_dies_after_the_run_had_finished_takes_nothing_away(tmp_path):
    script = changed_run(
        tmp_path,
        "leave = ranks.leave\n"  # a rank's last step
        "ranks.leave = lambda: os.abort() if ranks.current().index else leave()\n",
    )
    done = printed([*script, *settings("mora", *TWO, "hardware=ddp"), f"paths.results={tmp_path}"])
    assert done.returncode == 0, done.stderr
    assert "warning: rank 1 was ended by SIGABRT after the run had finished" in done.stderr
    assert (only_record(tmp_path).status, only_record(tmp_path).error) == ("finished", None)


@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["spawn", "torchrun"])
def test_ranks_end_without_the_shutdown_of_the_interpreter(launcher, tmp_path):
    """A thread of a process group may abort a process that shuts down. Here the shutdown itself aborts the process."""
    script = changed_run(
        tmp_path,
        "class Late:\n"
        "    abort = os.abort\n"
        "    def __del__(self):\n"
        "        self.abort()\n"
        "if __name__ == '__mp_main__' or ranks.from_launcher():\n"
        "    late = Late()\n",
    )
    own, count = ([*launcher, script[1]], ()) if launcher else (script, TWO)
    done = printed([*own, *settings("mora", *count, "hardware=ddp"), f"paths.results={tmp_path}"])
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert done.stdout.count("record: ") == 1  # what was printed last is not lost


def test_torchrun_gives_the_ranks(alone, tmp_path):
    arguments = settings("mora")
    done = printed([*TORCHRUN, "run.py", *arguments, "hardware=ddp", f"paths.results={tmp_path}"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("record: ") == 1  # only rank 0 prints
    assert_same_run(tmp_path, alone(*arguments))


def test_srun_gives_the_ranks(alone, tmp_path):
    """Two processes with the variables that srun sets; both "nodes" are this machine."""
    arguments = settings("mora")
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_LOCALID": "0"}
    command = [sys.executable, "run.py", *arguments, "hardware=ddp", f"paths.results={tmp_path}"]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment(**step, SLURM_PROCID=str(i)), stdout=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    printed = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "record: " in printed[0]
    assert printed[1] == ""
    assert_same_run(tmp_path, alone(*arguments))
    assert only_record(tmp_path).provenance["nodes"] == 2


def write_scores(index: int, port: int, out: str) -> None:
    """Write scores of every kind, each over several batches, as one of two ranks, or as one process if `port` is 0."""
    from torch.distributed import TCPStore

    from experiments.data.questions import Benchmark, ChoiceQuestion, OpenQuestion
    from experiments.data.rows import Rows
    from experiments.measure import evaluation
    from experiments.measure.evaluation import Loss
    from experiments.spec import ranks
    from experiments.tasks import uuid
    from experiments.train import base_models, scratch

    if port:
        ranks.Rank(index, 2, index, 2).export()
        ranks.join("cpu", TCPStore("127.0.0.1", port, is_master=False))
    uuid.EVALUATION_BATCH = 3
    evaluation.TOKENS_A_BATCH = 300
    model, tokenizer = base_models.tiny_model().eval(), scratch.byte_tokenizer()
    task = uuid.UuidTask()
    config = compose("scale=smoke", "task.pairs=16", "hardware=ddp" if port else "hardware=cpu", "hardware.device=cpu")
    data = task.prepare(config, tokenizer)
    rows = Rows.of(([5 + (i * j) % 90 for j in range(20 + 17 * i)], [True] * (20 + 17 * i)) for i in range(11))
    choices = [
        ChoiceQuestion(f"Question {'long ' * (i % 4)}{i}?", ("yes", "no", f"maybe {i}"), i % 3) for i in range(9)
    ]
    benchmarks = [
        Benchmark("choices", choices),
        Benchmark("letters", [ChoiceQuestion(f"Which{'?' * i}", ("A", "B", "C", "D"), i % 4) for i in range(7)]),
        Benchmark(
            "open", [OpenQuestion(f"{i} and {'one more ' * i}is?", str(i)) for i in range(7)], ("###",), 6, r"(\d+)"
        ),
    ]
    answers = evaluation.ask(model, tokenizer, benchmarks, 2)
    scores = {
        "uuid": task.evaluate(model, tokenizer, data),
        "loss": [Loss.of(model, rows).nats, Loss.of(model, rows).tokens],
        "answers": {name: [a.lm_eval, a.likelihoods, a.texts] for name, a in answers.items()},
    }
    with open(f"{out}-{index}.json", "w") as file:
        json.dump(scores, file)
    ranks.end(0)


def test_scores_of_two_ranks_are_those_of_one_process_exactly(tmp_path):
    from torch.distributed import TCPStore
    from torch.multiprocessing import spawn

    rendezvous = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn(write_scores, (0, str(tmp_path / "one")), 1)
    spawn(write_scores, (rendezvous.port, str(tmp_path / "two")), 2)
    expected = (tmp_path / "one-0.json").read_text()
    assert (tmp_path / "two-0.json").read_text() == expected
    assert (tmp_path / "two-1.json").read_text() == expected


@pytest.mark.parametrize("method", ["lora", "mora"])
def test_compiled_training_is_close_to_eager(method, alone, tmp_path):
    arguments = settings(method, "training.steps=6", "training.warmup_steps=1")
    code, err = run([*arguments, "hardware=cpu", "hardware.compile=true", f"paths.results={tmp_path}"])
    assert code == 0, err
    compiled, eager = only_record(tmp_path), only_record(alone(*arguments))
    assert compiled.provenance["compile"] is True
    assert compiled.key == eager.key
    curves = zip(compiled.metrics["curve"], eager.metrics["curve"], strict=True)
    assert max(abs(a["loss"] - b["loss"]) for a, b in curves) < 1e-3


def test_a_sharded_run_is_exported_whole(tmp_path):
    """Two ranks each hold a part of the weights. Every form of the export writes whole weights."""
    from experiments.reuse.export import LoraLimits, export

    code, err = run([*settings("mora", "method.operator=sharing"), *TWO, "hardware=fsdp", f"paths.results={tmp_path}"])
    assert code == 0, err
    record = only_record(tmp_path)
    for form in ("merged", "lora", "adapter"):
        export(record, Store(tmp_path), tmp_path / form, form, LoraLimits())
        assert list((tmp_path / form).glob("*.safetensors"))


def changed_run(folder: Path, change: str) -> list[str]:
    """The command of run.py with `change`, which its ranks make as well when they import the script."""
    script = folder / "changed_run.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import run\n"
        "from experiments.spec import ranks\n"
        f"{change}"
        "if __name__ == '__main__':\n"
        "    ranks.end(run.main())\n"
    )
    return [sys.executable, str(script)]


def printed(command: list[str]) -> subprocess.CompletedProcess:
    """What a command prints, and its exit code."""
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)


def wait_for_a_checkpoint(results: Path) -> None:
    deadline = time.monotonic() + 240
    while not list(results.glob("checkpoints/*/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.02)


def all_end(processes: list[psutil.Process]) -> bool:
    """Whether all processes end within 30 seconds."""
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive
