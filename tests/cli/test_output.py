"""What a process prints is lost where nobody takes it, and the work goes on; a script whose result is lost fails."""

import os
import signal
import subprocess
import sys

import pytest

from experiments.cli import script
from experiments.errors import StorageError

from ..conftest import ROOT, some_slow
from ..processes import SMOKE

# What prints much, in place of the cells of a run, the sweeps of a plan and the parts of the GPU check.
PRINTS = """
import sys
def prints(*arguments, **options):
    for i in range(2000):
        print("a line of the log", i)
        print("a line of the log", i, file=sys.stderr, flush=True)
    sys.stdout.flush()
    open({done!r}, "w").write("done")
    return 0
"""
RUN = """
import run
run.command.run_cells = prints
sys.exit(run.main())
"""
GPU_CHECK = """
from experiments.cli import script
from scripts import gpu_check
gpu_check.parts.run_all = prints
sys.exit(script.guarded(lambda: gpu_check.main(["--rehearse", "--results", {results!r}])))
"""
PLAN = """
from experiments.cli import plans, script
from scripts import plan
plans.start.run_all = prints
sys.exit(script.guarded(lambda: plan.main(["table2", "--scale", "smoke", "--run", "--results", {results!r}])))
"""
STARTS_A_PROCESS = """
import subprocess, sys
from experiments import redact
with redact.streams():
    child = "import os; [os.fstat(number) for number in range(3)]"
    sys.exit(subprocess.run([sys.executable, "-c", child]).returncode)
"""
PRINTS_A_RESULT = """
import sys
from experiments.cli import script
sys.exit(script.guarded(lambda: print("the result") or 0))
"""


HALF_WRITTEN = """
import sys, time
from pathlib import Path
from experiments import files
from experiments.cli import script
def main():
    with files.new_folder(Path(sys.argv[1])) as folder:
        print("writing", flush=True)
        time.sleep(60)
sys.exit(script.guarded(main))
"""


def process(code, redirect, *arguments):
    """Run Python with its output redirected by a shell. `{pipe}` is the number of a pipe that nobody reads."""
    command = [sys.executable, "-c", code, *arguments]
    read, pipe = os.pipe()
    os.close(read)
    redirected = ["bash", "-c", f'"$@" {redirect.format(pipe=pipe)}', "bash", *command]
    try:
        return subprocess.run(redirected, cwd=ROOT, capture_output=True, text=True, pass_fds=[pipe])
    finally:
        os.close(pipe)


LOST = {
    "a full disk": ">/dev/full 2>/dev/full",
    "a closed pipe": ">&{pipe} 2>&{pipe}",
    "closed files": ">&- 2>&-",
    "all files closed": "<&- >&- 2>&-",
}


@pytest.mark.promise("If what a run prints cannot be written, the run goes on and ends as it would otherwise.")
@pytest.mark.parametrize("name", LOST)
def test_lost_output_ends_nothing(name, tmp_path, counted):
    done = process((PRINTS + RUN).format(done=str(tmp_path / "done")), LOST[name])
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").read_text() == "done"
    counted(1, "outputs that nobody takes")


@pytest.mark.slow
@pytest.mark.promise("If what a run prints cannot be written, the run goes on and ends as it would otherwise.")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", LOST)
def test_a_run_whose_output_is_lost_finishes(name, ranks, tmp_path, counted):
    code = "import sys, run; sys.exit(run.main())"
    several = ["hardware=ddp", "hardware.device=cpu", f"hardware.processes={ranks}"] if ranks > 1 else []
    for _ in range(2):  # the second time the cell is finished before
        done = process(code, LOST[name], "method=lora", *SMOKE, *several, f"paths.results={tmp_path}")
        assert (done.returncode, done.stderr) == (0, "")
    assert len(os.listdir(tmp_path / "runs")) == 1
    counted(2, "runs")


@pytest.mark.promise("If what a script prints cannot be written, the runs that it starts go on.")
@pytest.mark.parametrize("script", [PLAN, GPU_CHECK], ids=["plan", "gpu_check"])
@pytest.mark.parametrize("name", some_slow(LOST, ["a closed pipe"]))
def test_a_script_whose_output_is_lost_goes_on_with_its_runs(name, script, tmp_path, counted):
    code = (PRINTS + script).format(done=str(tmp_path / "done"), results=str(tmp_path))
    done = process(code, LOST[name])
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").read_text() == "done"
    counted(1, "outputs that nobody takes")


def test_a_process_that_is_started_has_the_three_standard_files():
    """Otherwise the first files that the process opens take their numbers."""
    assert process(STARTS_A_PROCESS, "<&- >&- 2>&-").returncode == 0


ONE_LINE = "A script whose result cannot be written ends with one line of error, which says what happened."


@pytest.mark.promise(ONE_LINE)
def test_a_script_whose_result_is_lost_fails_with_one_line(counted):
    done = process(PRINTS_A_RESULT, ">/dev/full")
    assert (done.returncode, done.stderr) == (1, "error: cannot write: No space left on device\n")
    assert process(PRINTS_A_RESULT, "").stdout == "the result\n"
    counted(1, "results that are lost")


@pytest.mark.promise(ONE_LINE)
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("the hub gives nothing"), "error: cannot write: the hub gives nothing\n"),
        (StorageError("cannot write the model to out: full"), "error: cannot write the model to out: full\n"),
        (OSError(28, "No space left on device", "out"), "error: out: No space left on device\n"),
    ],
)
def test_an_error_of_the_disk_says_what_happened(error, line, capsys, counted):
    def main():
        raise error

    assert script.guarded(main) in (1, 2)
    assert capsys.readouterr().err == line
    counted(1, "errors of the disk")


@pytest.mark.promise("A script that is stopped by a signal leaves no half-written folder.")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_is_stopped_leaves_nothing(number, tmp_path, counted):
    command = [sys.executable, "-c", HALF_WRITTEN, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "writing\n"
        assert os.listdir(tmp_path) == [".out.incomplete"]
        child.send_signal(number)
        assert child.communicate()[1] == "interrupted\n"
    assert child.returncode == 130
    assert os.listdir(tmp_path) == []
    counted(1, "scripts stopped")
