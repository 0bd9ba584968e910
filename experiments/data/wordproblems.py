"""Arithmetic word problems from gsm_symbolic's templates.

The templates are generator functions, so this is the one place that runs something out of a package: the two files
named in `sources`, in a Python of their own that sees nothing of this project nor of the user's environment. Their
sums are checked each time, since the package's was only checked when it came.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError
from .corpora import Problem
from .sources import fetch

# What the two files import from their package: a number test and a number format, written here.
_CHILD = """
import json, random, sys, types
from fractions import Fraction

def is_integer(x):
    if isinstance(x, float):
        return x.is_integer()
    return isinstance(x, int) or (isinstance(x, Fraction) and x.denominator == 1)

def format_number(x, *ignored, **also_ignored):
    return str(int(x)) if is_integer(x) else str(x)

utils = types.ModuleType("reasoning_gym.utils")
utils.is_integer, utils.format_number = is_integer, format_number
sys.modules["reasoning_gym"] = types.ModuleType("reasoning_gym")
sys.modules["reasoning_gym.utils"] = utils
each = int(sys.argv[1])
for code in json.load(sys.stdin):
    space = {}
    exec(compile(code, "<templates>", "exec"), space)
    for name in sorted(n for n in space if n.startswith("generate_")):
        for seed in range(each):
            try:
                row = space[name](random.Random(f"{name}-{seed}"))
            except Exception:  # some templates are known to be broken
                continue
            print(json.dumps([name, row["question"], row["metadata"]["answer_cot"], row["answer"]]))
"""
SHA256 = {
    "generators_00_49.py": "78b85da5a9225fec76d7fc27e1bad207b0dfb58b386d5e3c1089b9542c04b1e7",
    "generators_50_99.py": "29e28c60ac623defb0acabdbf568771b4f43abb75027d2432c368d670ff4889e",
}
_equation = re.compile(r"(?<![\d/.*x-])(\d[\d,.]*) ([-+*/x]) (\d[\d,.]*) = \$?(\d[\d,.]*\d|\d)(?![\d/])")


def generate(cache: Path, each: int) -> list[tuple[str, Problem]]:
    """(template, problem) for `each` draws of every template, without those whose worked answer is wrong."""
    code = json.dumps([_checked(path) for path in fetch("gsm-symbolic", cache).values()])
    command = [sys.executable, "-I", "-c", _CHILD, str(each)]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=True, env=kept)
    problems = []
    for line in done.stdout.splitlines():
        template, question, worked, answer = json.loads(line)
        solution, _, final = worked.rpartition("\n#### ")
        if solution and final.strip() == answer and answer.lstrip("-").isdigit() and consistent(solution):
            problems.append((template, Problem(question, solution, answer)))
    return problems


def _checked(path: Path) -> str:
    """The code in a file, if it is the one that was read by us.

    Raises:
        ConfigError: It has another sha256.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
        raise ConfigError(
            f"{path} is not the file that was unpacked, and is not run; remove its folder to fetch it again"
        )
    return content.decode()


def consistent(solution: str) -> bool:
    """Whether every `a + b = c` in a solution is true, to half a unit of the last digit shown."""
    for left, sign, right, result in _equation.findall(solution):
        a, b, c = (float(number.replace(",", "").rstrip(".")) for number in (left, right, result))
        if sign == "/" and b == 0:
            return False
        value = {"+": a + b, "-": a - b, "*": a * b, "x": a * b, "/": a / b if b else 0.0}[sign]
        shown = result.replace(",", "").partition(".")[2]
        if abs(value - c) > 0.5 * 10 ** -len(shown) + 1e-9:
            return False
    return True


def trigrams(text: str) -> set[tuple[str, ...]]:
    """Runs of three words; digits are left out, since a template changes them."""
    words = re.findall(r"[a-z]+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def is_paraphrased(question: str, templates: Iterable[set[tuple[str, ...]]]) -> bool:
    """Whether a GSM8K question is likely the original of a template: a tenth of its trigrams are one template's.

    Measured over the 100 templates: the nearest question shares .14 to 1 of its trigrams, the second nearest at most
    .26 and mostly under .1. The low bar costs some innocent questions and lets no original through.
    """
    own = trigrams(question)
    return bool(own) and any(len(own & template) / len(own) >= 0.1 for template in templates)
