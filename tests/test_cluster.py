"""Hydra's submitit launcher runs cells as jobs: on this machine, and on a stand-in for SLURM.

The stand-in receives what submitit really sends. It stores the script that sbatch gets, runs the script with the
variables that SLURM would set, and runs the script again after a call of `scontrol requeue`.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the extra `slurm`"),
]
SMOKE = ("scale=smoke", "logger=none", "hardware.threads=1")
PATIENCE = 300
PASSPHRASE = "correct-horse-battery"
TALKATIVE = """
import logging, os
from experiments.tasks.uuid import UuidTask
class Talkative(UuidTask):
    name = "talkative"
TASK = Talkative()
print("my", os.environ["MY_SECRET"])
logging.warning("my " + os.environ["MY_SECRET"])
"""

STAND_INS = {
    "sbatch": """
import os, re, subprocess, sys
from pathlib import Path
folder = Path(os.environ["STAND_IN"])
text = Path(sys.argv[-1]).read_text()
(folder / "script.sh").write_text(text)
for i in range(int(re.search("--array=0-([0-9]+)", text)[1]) + 1):
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(i), "SLURM_JOB_ID": str(8 + i), "SLURM_NTASKS": "1"}
    task |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
    again = f"while bash script.sh; [ -e again-7_{i} ]; do rm again-7_{i}; done; touch ended-{i}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["bash", "-c", again], cwd=folder, env={**os.environ, **task}, **quiet)
print("Submitted batch job 7")
""",
    "srun": """
import os, sys
from pathlib import Path
task, command = os.environ["SLURM_ARRAY_TASK_ID"], sys.argv[1:]
while command[0].startswith("--"):
    option, *command = command
    if option in ("--output", "--error"):
        name, *command = command
        name = name.replace("%A", "7").replace("%a", task).replace("%t", "0")
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1 if option == "--output" else 2)
Path(os.environ["STAND_IN"], f"pid-{task}").write_text(str(os.getpid()))
os.execvp(command[0], command)
""",
    "scontrol": """
import os, sys
from pathlib import Path
folder, (verb, job) = Path(os.environ["STAND_IN"]), sys.argv[1:]
assert verb == "requeue"
(folder / f"again-{job}").touch()
with (folder / "requeued").open("a") as file:
    print(job, file=file)
""",
    "sacct": """
import os
from pathlib import Path
print("JobID|State|NodeList")
for i in range(2):
    ended = Path(os.environ["STAND_IN"], f"ended-{i}").exists()
    print(f"7_{i}|{'COMPLETED' if ended else 'RUNNING'}|here")
""",
}


def run(*arguments: str, env=None, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run.py"), "-m", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}, **options
    )


def records(results: Path) -> dict[str, dict]:
    values = [json.loads(p.read_text()) for p in (results / "runs").glob("*.json")]
    return {r["cell"]["method"]: r for r in values}


def test_a_job_a_cell_on_this_machine(tmp_path):
    local = ("hydra/launcher=submitit_local", "hardware=cpu", f"paths.results={tmp_path / 'results'}")
    process = run(*local, *SMOKE, "method=lora,mora", cwd=tmp_path)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert [row.split()[1] for row in out.splitlines()[-2:]] == ["finished", "finished"]
    assert {m: r["status"] for m, r in records(tmp_path / "results").items()} == {
        "lora": "finished",
        "mora": "finished",
    }
    assert os.listdir(tmp_path) == ["results"]


def test_a_job_that_does_not_end_well_is_an_exit_code(tmp_path):
    local = ("hydra/launcher=submitit_local", "hardware=cpu", f"paths.results={tmp_path}")
    refused = "error: method.rank must be a positive integer, got -1\n"  # before any job is submitted
    for wrong, code, message in (
        ("training.learning_rate=1e30", 1, "a job ended with 1"),
        ("method.rank=-1", 2, refused),
    ):
        process = run(*local, *SMOKE, wrong, cwd=ROOT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, err
        assert message in err


@pytest.mark.promise("Keys and tokens reach no record, no line that is printed, and no report.")
def test_a_job_prints_no_secret(tmp_path, counted):
    task = tmp_path / "task.py"
    task.write_text(TALKATIVE)
    local = ("hydra/launcher=submitit_local", "hardware=cpu", f"paths.results={tmp_path / 'results'}")
    process = run(*local, *SMOKE, "method=none", f"task.module={task}", env={"MY_SECRET": PASSPHRASE}, cwd=tmp_path)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert PASSPHRASE not in err
    (log,) = tmp_path.glob("results/hydra/.submitit/*/*_log.out")
    assert "my [secret]" in log.read_text()
    assert PASSPHRASE not in log.read_text()
    counted(1, "logs of jobs")


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """The environment in which the stand-in is the cluster."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, code in STAND_INS.items():
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "STAND_IN": str(folder)}


def test_a_job_is_not_submitted_without_a_sweep(tmp_path):
    """Without -m, Hydra would ignore the launcher, and the run would train on the login node."""
    arguments = ["run.py", "hardware=slurm", "hardware.device=cpu", "hardware.precision=fp32", *SMOKE, "method=lora"]
    command = [sys.executable, *arguments, f"paths.results={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: hydra/launcher=submitit_slurm (hardware=slurm) submits jobs only with -m: run.py -m")
    assert not list(tmp_path.iterdir())


def test_a_batch_that_the_ranks_of_a_job_cannot_divide_is_refused_before_jobs_are_submitted(tmp_path, slurm):
    ranks = ("hydra.launcher.tasks_per_node=3", "hydra.launcher.gpus_per_node=3")
    process = run("hardware=slurm", *ranks, *SMOKE, "method=lora", f"paths.results={tmp_path}", env=slurm, cwd=ROOT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "training.batch_size (8) must be a multiple of" in err
    assert not (Path(slurm["STAND_IN"]) / "script.sh").exists()


def test_slurm_gets_an_array_and_a_preempted_job_goes_on(tmp_path, slurm):
    results, folder = tmp_path / "results", Path(slurm["STAND_IN"])
    # This machine may have no GPU. Beside the checkpoint after the signal, there is only one at the last step.
    own = (*SMOKE, "hardware.device=cpu", "hardware.precision=fp32")
    own += ("training.steps=40", "training.checkpoint_every=40", "training.evaluate_every=40")
    process = run("hardware=slurm", *own, "method=lora,mora", f"paths.results={results}", env=slurm, cwd=ROOT)
    deadline = time.monotonic() + PATIENCE
    while not any("loss=" in p.read_text() for p in results.glob("hydra/.submitit/*/7_1_*.err")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(int((folder / "pid-1").read_text()), signal.SIGUSR2)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    (log,) = results.glob("hydra/.submitit/*/7_1_*.err")
    assert "SIGUSR2: stops with a checkpoint, within 2 steps" in log.read_text()
    assert (folder / "requeued").read_text() == "7_1\n"
    by_method = records(results)
    assert {m: r["status"] for m, r in by_method.items()} == {"lora": "finished", "mora": "finished"}

    script = (folder / "script.sh").read_text()
    for option in ("array=0-1%2", "signal=USR2@180", "time=1440", "requeue", "open-mode=append", "gpus-per-node=1"):
        assert f"#SBATCH --{option}\n" in script
    assert re.search(r"^srun --unbuffered .* -m submitit.core._submit ", script, re.MULTILINE)

    undisturbed = run("hardware=cpu", *own, "method=mora", f"paths.results={tmp_path / 'alone'}", cwd=ROOT)
    _, err = undisturbed.communicate(timeout=PATIENCE)
    assert undisturbed.returncode == 0, err
    assert records(tmp_path / "alone")["mora"]["metrics"] == by_method["mora"]["metrics"]
