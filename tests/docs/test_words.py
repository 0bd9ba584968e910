"""The spelling is British, in code, comments, messages and pages: a list of American forms that do not occur."""

import re
import subprocess

import pytest

from ..conftest import ROOT

# Tokenizer, optimizer, normalizer, quantized: names of libraries keep their spelling.
VERBS = (
    "author|capital|categor|central|emphas|factor|final|general|initial|local|material|maxim|memor|minim|modern|normal|"
    "organ|parallel|penal|prior|random|real|recogn|regular|serial|special|stabil|standard|summar|synchron|token|util"
)
AMERICAN = re.compile(
    r"(?<![\w.'\"\[-])(?:"
    rf"(?:{VERBS})iz(?:e[sd]?|ing|ations?)|analyz(?:e[sd]?|ing)|(?:un)?(?:label|model|cancel|travel|signal)(?:ed|ing)|"
    "(?:behavior|color|favor|flavor|honor|labor|neighbor)(?:s|ed|ing|al|able|hood|ing)?|"
    "grays?|centers?|centered|catalogs?|artifacts?|judgments?|defense|offense|fulfills?|licensed?|licenses"
    r")(?![\w(\]'\":;-]| ?=)",
    re.IGNORECASE,
)
TEXTS = re.compile(r"\.(py|md|ya?ml|toml|ipynb|html)$|(^|/)(Makefile|run)$")
# What was written by a program or by others, and names that are given.
EXCEPT = {"LICENSE", "LLaMA 2 Community License"}


def american(text: str) -> list[str]:
    for name in EXCEPT:
        text = text.replace(name, "")
    return [word[0] for word in AMERICAN.finditer(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Behavior of a neighboring layer is analyzed.", ["Behavior", "neighboring", "analyzed"]),
        ("a labeled, memorized row; initialization", ["labeled", "memorized", "initialization"]),
        ("a tokenizer of the optimizer, quantized; labelled; size; license = ", []),
        ('plot(color="red", ha="center"); torch.initialize(x); is_initialized', []),
    ],
)
def test_american_forms_are_recognised(text, words):
    assert american(text) == words


def test_the_spelling_is_british():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    texts = [f for f in files if TEXTS.search(f) and not f.startswith("results/") and f != "tests/docs/test_words.py"]
    assert len(texts) > 200
    words = {f: american((ROOT / f).read_text(encoding="utf-8")) for f in texts}
    assert {f: found for f, found in words.items() if found} == {}
