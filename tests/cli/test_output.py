"""What a process prints is lost where nobody takes it, and the work goes on; a script whose result is lost fails."""

import os
import signal
import subprocess
import sys

import pytest

from experiments.cli import script
from experiments.errors import StorageError

from ..conftest import ROOT
from ..processes import SMOKE

PRINTS = """
import sys
from experiments import redact
@redact.streams(best_effort=True)
def main():
    for i in range(2000):
        print("a line of the log", i)
        print("a line of the log", i, file=sys.stderr)
    sys.stdout.flush()
    open({done!r}, "w").write("done")
    return 0
sys.exit(main())
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
    """Run Python with its output redirected by a shell."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "bash", *command], cwd=ROOT, capture_output=True, text=True
    )


LOST = {
    "a full disk": ">/dev/full 2>/dev/full",
    "a closed pipe": "2>&1 | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}",
    "closed files": ">&- 2>&-",
    "all files closed": "<&- >&- 2>&-",
}


@pytest.mark.promise("If what a run prints cannot be written, the run goes on and ends as it would otherwise.")
@pytest.mark.parametrize("name", LOST)
def test_lost_output_ends_nothing(name, tmp_path, counted):
    done = process(PRINTS.format(done=str(tmp_path / "done")), LOST[name])
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").read_text() == "done"
    counted(1, "outputs that nobody takes")


@pytest.mark.slow
@pytest.mark.promise("If what a run prints cannot be written, the run goes on and ends as it would otherwise.")
@pytest.mark.parametrize("name", LOST)
def test_a_run_whose_output_is_lost_finishes(name, tmp_path, counted):
    code = "import sys, run; sys.exit(run.main())"
    for _ in range(2):  # the second time the cell is finished before
        done = process(code, LOST[name], "method=lora", *SMOKE, f"paths.results={tmp_path}")
        assert (done.returncode, done.stderr) == (0, "")
    assert len(os.listdir(tmp_path / "runs")) == 1
    counted(2, "runs")


def test_a_script_whose_result_is_lost_fails_with_one_line():
    done = process(PRINTS_A_RESULT, ">/dev/full")
    assert (done.returncode, done.stderr) == (1, "error: cannot write: No space left on device\n")
    assert process(PRINTS_A_RESULT, "").stdout == "the result\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("the hub gives nothing"), "error: cannot write: the hub gives nothing\n"),
        (StorageError("cannot write the model to out: full"), "error: cannot write the model to out: full\n"),
        (OSError(28, "No space left on device", "out"), "error: out: No space left on device\n"),
    ],
)
def test_an_error_of_the_disk_says_what_happened(error, line, capsys):
    def main():
        raise error

    assert script.guarded(main) in (1, 2)
    assert capsys.readouterr().err == line


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
