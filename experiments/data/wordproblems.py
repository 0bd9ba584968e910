"""Arithmetic word problems from the templates of gsm_symbolic.

The templates are Python functions. So this module runs code of a data package, and no other module does: the code of
the two files in the source `gsm-symbolic`, in a Python process that sees neither this project nor the environment of
the user. The sha256 of the files is checked at each run, since that of the package is checked at the download only.
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

# The two files import a test and a format of numbers from their package; both are written here instead.
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
    """Draw `each` problems from every template, and leave out the problems whose solution is wrong.

    Returns:
        The name of the template and the problem, for each problem.

    Raises:
        ConfigError: A file of templates has changed since it was unpacked.
    """
    code = json.dumps([_checked(path) for path in fetch("gsm-symbolic", cache).values()])
    command = [sys.executable, "-I", "-c", _CHILD, str(each)]
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    child = subprocess.run(
        command, input=code, capture_output=True, text=True, check=True, env=environment, encoding="utf-8"
    )
    problems = []
    for line in child.stdout.splitlines():
        template, question, steps, answer = json.loads(line)
        solution, _, final = steps.rpartition("\n#### ")
        if solution and final.strip() == answer and answer.lstrip("-").isdigit() and consistent(solution):
            problems.append((template, Problem(question, solution, answer)))
    return problems


def _checked(path: Path) -> str:
    """The code in a file of templates.

    Raises:
        ConfigError: The file has another sha256 than the file that we have read.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
        raise ConfigError(
            f"{path} has changed since it was unpacked, and is not run; remove its folder to fetch it again"
        )
    return content.decode()


def consistent(solution: str) -> bool:
    """Whether every equation `a + b = c` in a solution is true, to half a unit of the last digit of `c`."""
    for left, sign, right, result in _equation.findall(solution):
        a, b, c = (float(number.replace(",", "").rstrip(".")) for number in (left, right, result))
        if sign == "/" and b == 0:
            return False
        value = {"+": a + b, "-": a - b, "*": a * b, "x": a * b, "/": a / b if b else 0.0}[sign]
        decimals = result.replace(",", "").partition(".")[2]
        if abs(value - c) > 0.5 * 10 ** -len(decimals) + 1e-9:
            return False
    return True


def trigrams(text: str) -> set[tuple[str, ...]]:
    """All runs of three words. Digits do not count, since a template changes them."""
    words = re.findall(r"[a-z]+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def is_paraphrased(question: str, templates: Iterable[set[tuple[str, ...]]]) -> bool:
    """Whether a GSM8K question is likely the original of a template: the two share a tenth of the question's trigrams.

    Measured for the 100 templates: the nearest question shares 0.14 to 1 of its trigrams with the template, the second
    nearest at most 0.26 and mostly less than 0.1. The low limit takes some questions for originals that are none, and
    misses no original.
    """
    own = trigrams(question)
    return bool(own) and any(len(own & template) / len(own) >= 0.1 for template in templates)
