"""Every number of docs/findings.md stands in a table or a finding that its paragraph links to."""

import re

import pytest

from ..conftest import ROOT

PAGE = ROOT / "docs" / "findings.md"
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)\s]*\)")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?![\w.]*\w)")
LONGEST = 5_000  # characters: one page


def numbers(text: str) -> set[str]:
    """The numbers of a text without thousands separators; a sign counts, and `+1.0` is `1.0`."""
    return {number.replace(",", "").removeprefix("+") for number in NUMBER.findall(text)}


def paragraphs() -> list[str]:
    """The paragraphs and the points of the page that hold a number."""
    text = re.sub(r"<!--.*?-->", "", PAGE.read_text(), flags=re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n(?=\* )", text)
    return [" ".join(b.split()) for b in blocks if not b.startswith("#") and numbers(LINK.sub("", b))]


def unproven(paragraph: str) -> set[str]:
    """The numbers of a paragraph that no file has to which the paragraph links."""
    files = [(PAGE.parent / target).resolve() for target in LINK.findall(paragraph)]
    known = set().union(*(numbers(f.read_text()) for f in files if f.is_file()))
    # A difference stands in a table with its sign; a sentence may say "9.1 points below".
    return numbers(LINK.sub("", paragraph)) - known - {number.removeprefix("-") for number in known}


@pytest.mark.parametrize("paragraph", paragraphs(), ids=lambda text: text[:40])
def test_every_number_stands_where_the_paragraph_says(paragraph):
    assert unproven(paragraph) == set()


def test_a_wrong_number_is_found():
    wrong = next(p for p in paragraphs() if "%" in p).replace("%", "% (1234.5)", 1)
    assert unproven(wrong) == {"1234.5"}


def test_the_page_is_short_and_says_all_four_things():
    text = PAGE.read_text()
    assert len(text) <= LONGEST
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "What holds",
        "What does not hold",
        "What is new",
        "What to pick",
        "What is open",
    ]
