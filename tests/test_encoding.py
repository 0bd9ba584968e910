"""Every text file and every text of another program has a named encoding: the locale of a machine changes nothing."""

import ast
import os
import subprocess
import sys

import pytest

from .conftest import ROOT

SOURCES = [
    ROOT / "run.py",
    *(p for folder in ("experiments", "scripts", "mora") for p in (ROOT / folder).rglob("*.py")),
]
RUNNERS = ("run", "Popen", "check_output", "check_call", "call")


def unnamed(source: str) -> list[int]:
    """The lines of calls that read or write text without an encoding."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return sorted(call.lineno for call in calls if is_text(call) and not names_encoding(call))


def names_encoding(call: ast.Call) -> bool:
    return any(keyword.arg in ("encoding", None) for keyword in call.keywords)


def is_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("read_text", "write_text"):
        return True
    if name in RUNNERS:
        return any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords)
    if name not in ("open", "fdopen"):
        return False
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if owner in ("os", "tarfile", "zipfile", "packed") and name == "open":
        return False
    first = 0 if isinstance(call.func, ast.Attribute) and owner not in ("io", "gzip", "os", "codecs") else 1
    values = [*call.args[first : first + 1], *(k.value for k in call.keywords if k.arg == "mode")]
    return not any(isinstance(value, ast.Constant) and "b" in str(value.value) for value in values)


@pytest.mark.parametrize(
    "source",
    [
        "path.read_text()",
        "path.write_text(x)",
        "open(x)",
        "open(x, 'w')",
        "path.open()",
        "path.open('a')",
        "subprocess.run(x, text=True)",
        "gzip.open(x, 'rt')",
        "os.fdopen(x, 'w')",
    ],
)
def test_a_call_without_an_encoding_is_seen(source):
    assert unnamed(source) == [1]
    assert unnamed(f"{source[:-1]}, encoding='utf-8')".replace("(, ", "(")) == []


def test_bytes_need_no_encoding():
    for source in ("open(x, 'rb')", "path.open('rb')", "os.open(x, 1)", "subprocess.run(x)", "path.read_bytes()"):
        assert unnamed(source) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_has_an_encoding(path):
    assert unnamed(path.read_text(encoding="utf-8")) == []


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


@pytest.mark.promise("A machine whose locale is ASCII reads the same texts and prints whatever there is to print.")
def test_an_ascii_locale(tmp_path, counted):
    """The probe prints a text that ASCII lacks, and reads the packaged texts."""
    probe = (
        "import locale, hashlib; from experiments import redact\n"
        "from experiments.data import corpora\n"
        "from experiments.spec.run_config import Paths\n"
        "def sum_of(texts):\n"
        "    return hashlib.sha256('\\0'.join(texts).encode()).hexdigest()\n"
        "@redact.streams()\n"
        "def main():\n"
        "    cache = Paths(results='results').cache_folder\n"
        "    answers = [row['output'] for row in corpora.alpaca(cache)]\n"
        "    texts = [*corpora.c4(cache)[0], *corpora.wikipedia(cache), *answers]\n"
        "    print('\\u03b1\\udcff', locale.getpreferredencoding(False), sum_of(texts))\n"
        "main()"
    )
    encodings, sums = set(), set()
    for environment in (ASCII, {"PYTHONUTF8": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", probe], cwd=ROOT, env=os.environ | environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        encodings.add(done.stdout.split()[-2])
        sums.add(done.stdout.split()[-1])
    assert (len(encodings), len(sums)) == (2, 1)
    counted(1, "locales")
