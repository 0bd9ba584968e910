"""Every text file and every text of another program has a named encoding: the locale of a machine changes nothing."""

import ast
import codecs
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

from experiments.paper.cell import Cell

from . import synthetic
from .conftest import ROOT

ENCODING = "Every file of text is opened with a named encoding."
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


@pytest.mark.promise(ENCODING)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_has_an_encoding(path):
    assert unnamed(path.read_text(encoding="utf-8")) == []


PROMISE = (
    "A machine whose locale is ASCII or ISO-8859-1 reads the same texts, writes the same page, and prints whatever "
    "there is to print."
)
LATIN = "en_US.ISO-8859-1"
TEXT = "\u03b1\u20ac\u4e2d"  # neither ASCII nor ISO-8859-1 has these characters


@pytest.fixture(scope="module", params=["ascii", "latin"])
def legacy(request, tmp_path_factory):
    """The environment of a process in a legacy locale, and the name of its encoding."""
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    if request.param == "ascii":
        return plain | {"LC_ALL": "C", "LANG": "C"}, "ascii"
    folder = tmp_path_factory.mktemp("locales")  # few machines have this locale installed
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", folder / LATIN]
    if shutil.which("localedef") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("localedef cannot build a locale here")
    return plain | {"LC_ALL": LATIN, "LANG": LATIN, "LOCPATH": str(folder)}, "iso8859-1"


@pytest.mark.promise(PROMISE)
def test_a_legacy_locale(legacy, tmp_path, counted):
    """The probe prints a text that the locale lacks, and reads the packaged texts."""
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
    encodings, sums = [], set()
    for environment in (legacy[0], {"PYTHONUTF8": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", probe], cwd=ROOT, env=os.environ | environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        encodings.append(codecs.lookup(done.stdout.split()[-2].decode()).name)
        sums.add(done.stdout.split()[-1])
    assert (encodings, len(sums)) == ([legacy[1], "utf-8"], 1)
    counted(1, "locales")


@pytest.mark.promise(PROMISE)
def test_the_page_in_a_legacy_locale(legacy, tmp_path, counted):
    """The page holds a text that the locale lacks, and a file of the results cannot be read."""
    runs = synthetic.searched(synthetic.FixedProtocols("laptop").setting(Cell("uuid", "lora", 8)), [0])
    synthetic.write([dataclasses.replace(run, provenance=run.provenance | {"note": TEXT}) for run in runs], tmp_path)
    (tmp_path / "runs" / "odd.json").write_text(TEXT, encoding="utf-8")
    pages = []
    for environment in (legacy[0], {"PYTHONUTF8": "1"}):
        command = [sys.executable, "scripts/make_report.py", "--results", tmp_path]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        pages.append((tmp_path / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert TEXT.encode() in pages[0] or json.dumps(TEXT)[1:-1].encode() in pages[0]
    counted(1, "locales")
