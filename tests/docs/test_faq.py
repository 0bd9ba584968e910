"""The answers of docs/faq.md compute what they say, and the commands and snippets of the page run."""

import doctest
import shlex
import subprocess
import sys

import pytest

from scripts import plan

from .. import families
from ..conftest import ROOT
from .test_docs import blocks


def test_the_answers_are_true():
    results = doctest.testfile(str(ROOT / "docs" / "faq.md"), module_relative=False)
    assert results.attempted > 15
    assert results.failed == 0


def test_the_command_prints_runs(capsys, tmp_path):
    (block,) = blocks("docs/faq.md", "sh")
    _, script, *arguments = shlex.split(block)
    assert script == "scripts/plan.py"
    assert plan.main([*arguments, "--results", str(tmp_path)]) == 0
    assert "python run.py" in capsys.readouterr().out


@pytest.mark.slow
def test_the_snippet_for_a_base_in_4_bits_runs(tmp_path):
    pytest.importorskip("bitsandbytes")
    (snippet,) = blocks("docs/faq.md", "python")
    base = families.write("llama", tmp_path / "base")
    code = (
        snippet.replace('"BASE"', repr(str(base)))
        + "\nassert 'Linear4bit' in str(model) and 'MoraLinear' in str(model)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
