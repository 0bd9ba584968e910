"""Several ranks against one process: real processes over gloo, smoke scale. Minutes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import runner
from experiments.store.records import Store

from ..conftest import ROOT, compose
from .on_ranks import TWO, assert_same_run, environment, only_record, run, settings, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
METHODS = ("fft", "lora", "mora", "remora")
INSTRUCT = (
    "task=instruct",
    "task.questions=2",
    "training.evaluate_every=3",
    "training.batch_size=2",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Settings -> the results of one process with them, run once."""
    known = {}

    def get(*arguments: str):
        if arguments not in known:
            known[arguments] = tmp_path_factory.mktemp("alone")
            record = runner.run(compose(*arguments, "hardware=cpu", f"paths.results={known[arguments]}"))
            assert record.status == "finished", record.error
        return known[arguments]

    return get


@pytest.mark.parametrize("hardware", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_give_the_curve_and_the_weights_of_one(method, hardware, alone, tmp_path):
    arguments = settings(method)
    code, err = run([*arguments, *TWO, f"hardware={hardware}", f"paths.results={tmp_path}"])
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))
    provenance = only_record(tmp_path).provenance
    assert (provenance["processes"], provenance["nodes"]) == (2, 1)
    assert provenance["sharding"] == {"ddp": "none", "fsdp": "full"}[hardware]


@pytest.mark.parametrize("method", ["relora", "remora method.train_rest=true"])
def test_what_restarts_draw_and_what_trains_beside_is_the_same_under_fsdp(method, alone, tmp_path):
    arguments = settings(*method.split(), "training.steps=6", "method.restart_every=2")
    code, err = run([*arguments, *TWO, "hardware=fsdp", f"paths.results={tmp_path}"])
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))


def test_rows_of_unequal_length_count_by_their_tokens(alone, tmp_path):
    """Instruction rows: a mean of the ranks' means would weigh short answers more. Benchmarks are asked too."""
    arguments = [a for a in settings("mora", *INSTRUCT) if not a.startswith("task.pairs")]
    code, err = run([*arguments, *TWO, "hardware=ddp", f"paths.results={tmp_path}"])
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))


@pytest.mark.parametrize("hardware", ["ddp", "fsdp"])
def test_interrupted_ranks_stop_and_the_same_command_goes_on(hardware, alone, tmp_path):
    """Status, exit code, no process left; then the end is that of an undisturbed run.

    SIGTERM goes to the parent alone, as from a scheduler, and SIGINT to parent and ranks, as from a terminal.
    """
    arguments = settings("remora", "training.steps=24", "method.restart_every=4")
    command = [*arguments, *TWO, f"hardware={hardware}", f"paths.results={tmp_path}"]
    process = start(command, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("checkpoints/*/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = children(process.pid)
    if hardware == "fsdp":
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert only_record(tmp_path).status == "interrupted"
    assert gone(left)
    (kept,) = tmp_path.glob("checkpoints/*")
    assert any((c / "pytorch_model_fsdp_0").is_dir() == (hardware == "fsdp") for c in kept.iterdir())
    code, err = run(command)
    assert code == 0, err
    assert_same_run(tmp_path, alone(*arguments))


@pytest.mark.parametrize("victim", ["a rank", "the parent"])
def test_nothing_survives_a_death(victim, tmp_path):
    command = settings("mora", "training.steps=4000", "training.evaluate_every=4000", *TWO, "hardware=ddp")
    process = start([*command, f"paths.results={tmp_path}"])
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("checkpoints/*/checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = ranks_of(process.pid)
    assert len(left) == 2
    os.kill(max(left) if victim == "a rank" else process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert gone(left)
    record = only_record(tmp_path)
    if victim == "a rank":
        assert process.returncode == 1
        assert record.status == "failed"
        assert record.error["message"] == "rank 1 was ended by SIGKILL"
        assert "failed: rank 1 was ended by SIGKILL" in err
    else:
        assert process.returncode == -signal.SIGKILL
        assert record.status == "running"


def test_the_error_of_any_rank_is_that_of_the_run(tmp_path):
    """Rank 1 fails by itself; rank 0 only sees that it has gone. The record says what rank 1 said."""
    (tmp_path / "failing.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import run\n"
        "from experiments.spec import ranks\n"
        "from experiments.tasks import uuid\n"
        "def measure(*a):\n"
        "    if ranks.current().index:\n"
        "        raise ArithmeticError('of rank 1 alone')\n"
        "    return {}\n"
        "uuid.UuidTask.measure = measure\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(run.main())\n"
    )
    command = [sys.executable, str(tmp_path / "failing.py"), *settings("mora", *TWO, "hardware=ddp")]
    done = subprocess.run(
        [*command, f"paths.results={tmp_path}"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    record = only_record(tmp_path)
    assert record.status == "failed"
    assert record.error == {"type": "ArithmeticError", "message": "of rank 1 alone", "rank": "1"}


def test_torchrun_gives_the_ranks(alone, tmp_path):
    arguments = settings("mora")
    own = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "run.py"]
    done = subprocess.run(
        [*own, *arguments, "hardware=ddp", f"paths.results={tmp_path}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("record: ") == 1  # rank 0 alone prints
    assert_same_run(tmp_path, alone(*arguments))


def test_srun_gives_the_ranks(alone, tmp_path):
    """Two processes with the variables that srun sets, on two "nodes" that are both this machine."""
    arguments = settings("mora")
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_LOCALID": "0"}
    command = [sys.executable, "run.py", *arguments, "hardware=ddp", f"paths.results={tmp_path}"]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment(**step, SLURM_PROCID=str(i)), stdout=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    printed = [process.communicate(timeout=280)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "record: " in printed[0]
    assert printed[1] == ""
    assert_same_run(tmp_path, alone(*arguments))
    assert only_record(tmp_path).provenance["nodes"] == 2


def measured(index: int, port: int, out: str) -> None:
    """One of two ranks: scores of every kind, over several batches each."""
    import json

    from torch.distributed import TCPStore

    from experiments.data.questions import Benchmark, ChoiceQuestion, OpenQuestion
    from experiments.data.rows import Rows
    from experiments.measure import evaluation
    from experiments.measure.evaluation import Loss
    from experiments.spec import ranks
    from experiments.tasks import uuid
    from experiments.train import base_models

    if port:
        names = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        os.environ.update({name: str(value) for name, value in names.items()})
        ranks.join("cpu", TCPStore("127.0.0.1", port, is_master=False))
    uuid.EVALUATION_BATCH = 3
    evaluation.TOKENS_A_BATCH = 300
    model, tokenizer = base_models.tiny_model().eval(), base_models.tiny_tokenizer()
    task = uuid.UuidTask()
    config = compose("scale=smoke", "task.pairs=16", "hardware=ddp" if port else "hardware=cpu", "hardware.device=cpu")
    data = task.prepare(config, tokenizer)
    rows = Rows.of(([5 + (i * j) % 90 for j in range(20 + 17 * i)], [True] * (20 + 17 * i)) for i in range(11))
    choices = [
        ChoiceQuestion(f"Question {'long ' * (i % 4)}{i}?", ("yes", "no", f"maybe {i}"), i % 3) for i in range(9)
    ]
    asked = [
        Benchmark("choices", choices),
        Benchmark("letters", [ChoiceQuestion(f"Which{'?' * i}", ("A", "B", "C", "D"), i % 4) for i in range(7)]),
        Benchmark(
            "open", [OpenQuestion(f"{i} and {'one more ' * i}is?", str(i)) for i in range(7)], ("###",), 6, r"(\d+)"
        ),
    ]
    answers = evaluation.ask(model, tokenizer, asked, 2)
    found = {
        "uuid": task.evaluate(model, tokenizer, data),
        "loss": [Loss.of(model, rows).nats, Loss.of(model, rows).tokens],
        "answers": {name: [a.lm_eval, a.likelihoods, a.texts] for name, a in answers.items()},
    }
    with open(f"{out}-{index}.json", "w") as file:
        json.dump(found, file)


def test_scores_of_two_ranks_are_those_of_one_process_exactly(tmp_path):
    from torch.distributed import TCPStore
    from torch.multiprocessing import spawn

    board = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn(measured, (0, str(tmp_path / "one")), 1)
    spawn(measured, (board.port, str(tmp_path / "two")), 2)
    expected = (tmp_path / "one-0.json").read_text()
    assert (tmp_path / "two-0.json").read_text() == expected
    assert (tmp_path / "two-1.json").read_text() == expected


@pytest.mark.parametrize("method", ["lora", "mora"])
def test_compiled_training_is_close_to_eager(method, alone, tmp_path):
    arguments = settings(method, "training.steps=6", "training.warmup_steps=1")
    code, err = run([*arguments, "hardware=cpu", "hardware.compile=true", f"paths.results={tmp_path}"])
    assert code == 0, err
    record = only_record(tmp_path)
    assert record.provenance["compile"] is True
    assert record.key == only_record(alone(*arguments)).key
    curve, known = record.metrics["curve"], only_record(alone(*arguments)).metrics["curve"]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(curve, known, strict=True)) < 1e-3


def test_a_sharded_run_is_exported_whole(tmp_path):
    """The adapter that two ranks trained in parts, merged for others to load."""
    from experiments.reuse.export import LoraLimits, export

    code, err = run([*settings("mora", "method.operator=sharing"), *TWO, "hardware=fsdp", f"paths.results={tmp_path}"])
    assert code == 0, err
    record = only_record(tmp_path)
    for form in ("merged", "lora", "adapter"):
        export(record, Store(tmp_path), tmp_path / form, form, LoraLimits())
        assert list((tmp_path / form).glob("*.safetensors"))


def children(pid: int) -> list[int]:
    """The processes below one, as Linux lists them."""
    found = []
    for listed in (p for p in os.listdir("/proc") if p.isdigit()):
        try:
            with open(f"/proc/{listed}/stat") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found += [int(listed), *children(int(listed))]
    return sorted(found)


def ranks_of(pid: int) -> list[int]:
    def is_rank(child: int) -> bool:
        with open(f"/proc/{child}/cmdline") as file:
            return "spawn_main" in file.read()

    return [child for child in children(pid) if is_rank(child)]


def gone(pids: list[int]) -> bool:
    """Whether all of them end within seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            return True
        time.sleep(0.1)
    return False
