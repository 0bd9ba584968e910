"""Scorers on published examples and hard cases."""

from fractions import Fraction

import pytest

from experiments.data import corpora
from experiments.data.corpora import boxed
from experiments.measure import scorers
from experiments.measure.scorers import convfinqa_right, entities, entity_f1, gsm8k_right, headline_f1, math_right

from ..data.tokenizers_of import CACHE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("$1,234.50 dollars", Fraction("1234.5")),
        ("-3", -3),
        ("- 3 degrees", -3),
        ("-$5", -5),
        ("3/4 of a cup", Fraction(3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("- 1 1/2", Fraction(-3, 2)),
        (".5", Fraction(1, 2)),
        ("12.", 12),
        ("70,000", 70_000),
        ("x = 7", 7),
        ("5 apples and 6 pears", 5),
        ("\N{MINUS SIGN}3", -3),
        (r"\frac{6}{2}", 3),
        (r"1\frac12", Fraction(3, 2)),
        (r"-1\dfrac{1}{2} cups", Fraction(-3, 2)),
        (r"-\tfrac 12", Fraction(-1, 2)),
        ("9" * 4300, 10**4300 - 1),
        ("9" * 4301, None),  # Python reads no integer of so many digits
        (f"1/{'9' * 5000}", None),
        (f"{'1' * 5000} 1/2", None),
        (f"0.{'1' * 5000}", None),
        ("3/0", None),
        ("none", None),
        ("", None),
    ],
)
def test_numbers_are_read_exactly(text, value):
    assert scorers.number(text) == value


@pytest.mark.parametrize(
    ("generated", "answer", "right"),
    [
        ("She sells 9 eggs for $2 each.\nThe answer is: 18", "18", True),
        ("The answer is: $18.00", "18", True),
        ("The answer is: 18 dollars a day.", "18", True),
        ("The answer is: 2,125", "2125", True),
        ("The answer is: 2125", "2,125", True),
        ("The answer is: 18.4", "18", False),  # with rounding, this answer would be right
        ("The answer is: 17\nNo. The answer is: 18", "18", True),  # the last answer counts
        ("The answer is: \n18", "18", True),
        ("#### 18", "18", False),  # GSM8K's own mark, which a model trained on MetaMathQA does not write
        ("18", "18", False),
        ("The answer is:", "18", False),
        ("", "18", False),
        ("The answer is: \N{MINUS SIGN}18", "-18", True),
        (f"The answer is: {'9' * 5000}", "18", False),
    ],
)
def test_metamath_rule_for_gsm8k(generated, answer, right):
    assert gsm8k_right(generated, answer) is right


@pytest.mark.parametrize(
    ("guess", "answer", "right"),
    [
        (r"\frac{1}{2}", r"\dfrac{1}{2}", True),
        (r"\frac12", r"\frac{1}{2}", True),
        ("1/2", r"\frac{1}{2}", True),
        ("0.5", r"\frac{1}{2}", True),
        ("-1/2", r"-\frac{1}{2}", True),
        (r"\frac{2}{4}", r"\frac{1}{2}", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", True),
        ("10,080", r"10,\!080", True),
        ("$5$", "5", True),
        (r"90^\circ", "90", True),
        (r"50\%", "50", True),
        (r"5\text{ inches}", "5", True),
        (r"\text{Evelyn}", "Evelyn", True),
        ("x=5", "5", True),
        (r"\sqrt2", r"\sqrt{2}", True),
        (r"1\frac12", r"\frac{3}{2}", True),
        (r"1\frac{1}{2}", "1.5", True),
        (r"-2 \dfrac 14", r"-\frac{9}{4}", True),
        (r"1\frac12", r"\frac{1}{2}", False),
        ("\N{MINUS SIGN}5", "-5", True),
        (r"\frac{-1}{2}", r"-\frac{1}{2}", True),
        (r"5\,\text{m}^2", "5", True),
        (r"5~\mathrm{cm}^{3}", "5", True),
        (r"\frac{1}{0}", "1", False),
        ("9" * 5000, "5", False),
        ("9" * 5000, "9" * 5000, True),
        (r"\frac{1}{" + "9" * 5000 + "}", "0", False),
        ("5.0", "5", True),
        ("(1,2)", "(2,1)", False),
        ("1,2", "12", False),
        ("-5", "5", False),
        ("", "5", False),
    ],
)
def test_metamath_rule_for_math(guess, answer, right):
    assert math_right(f"So it follows.\nThe answer is: {guess}", answer) is right


def test_every_gold_answer_is_right_by_its_own_scorer():
    train, held_out = corpora.competition_math(CACHE)
    wrong = [p for p in train + held_out if not math_right(f"The answer is: {' '.join(p.answer.split())}", p.answer)]
    assert not wrong
    wrong = [p for p in corpora.gsm8k(CACHE) if not gsm8k_right(f"{p.solution}\nThe answer is: {p.answer}", p.answer)]
    assert not wrong


def test_our_reading_of_math_answers_agrees_with_lm_evals():
    """On the published solutions, this project and lm-eval's normaliser read the same answers."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv, last_boxed_only_string, remove_boxed

    _, held_out = corpora.competition_math(CACHE)
    for problem in held_out:
        assert is_equiv(problem.answer, remove_boxed(last_boxed_only_string(problem.solution)).strip())


def test_boxed_takes_the_last_one_with_its_braces():
    assert boxed(r"\boxed{1} then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert boxed("nothing") is None
    assert boxed(r"\boxed{unclosed") is None


def test_weighted_f1_is_the_textbooks():
    # Class a: precision 1/2, recall 1, F1 2/3, weight 1. Class b: precision 1, recall 1/2, F1 2/3, weight 2.
    assert scorers.weighted_f1(["a", "b", "a"], ["a", "b", "b"]) == pytest.approx(2 / 3)
    assert scorers.weighted_f1(["a", "a"], ["a", "a"]) == 1
    assert scorers.weighted_f1(["b", "b"], ["a", "a"]) == 0


def test_headline_averages_over_the_kinds_of_question():
    # All answers of kind 0 are right, all of kind 1 wrong. Both kinds count equally, with any number of questions.
    assert headline_f1([1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]) == pytest.approx(0.5)


def test_an_entity_is_the_last_word_before_its_type():
    assert entities("Sam Altman (PER), OpenAI (ORG)\nUS (LOC), US (LOC)") == [
        ("Altman", "PER"),
        ("OpenAI", "ORG"),
        ("US", "LOC"),
    ]
    assert entities("no entities here") == entities("") == entities("US(LOC)") == []


@pytest.mark.parametrize(
    ("generated", "gold", "score"),
    [
        ("Smith (PER), Ohio (ORG)", "John Smith (PER), Ohio (LOC)", 0.75),
        ("Smith (PER)", "John Smith (PER)", 1.0),
        ("smith (PER)", "Smith (PER)", 0.5),  # another text of the same type
        ("smith (per)", "Smith (PER)", 0.0),
        ("Ohio (ORG)", "Ohio (LOC)", 0.5),
        ("A (PER)", "A (PER), B (LOC)", 2 / 3),
        ("A (PER), B (LOC)", "A (PER)", 2 / 3),
        # MUC lets one generated entity serve two gold entities: 1 + 1/2 of 2 gold and 1 generated.
        ("A (PER)", "A (PER), B (PER)", 1.0),
        ("", "A (PER)", 0.0),
        ("A (PER)", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_the_f1_of_a_sentence_is_mucs(generated, gold, score):
    assert entity_f1([generated], [gold]) == pytest.approx(score)


def test_entity_f1_is_the_mean_over_sentences():
    gold = ["A (PER), B (ORG)", "C (LOC)", ""]
    assert entity_f1(["A (PER), B (LOC)", "", ""], gold) == pytest.approx((0.75 + 0 + 0) / 3)


@pytest.mark.parametrize(
    ("generated", "answer", "right"),
    [
        ("206588.0", "206588.0", True),
        ("206,588", "206588", True),
        ("$ 206588", "206588", True),
        ("25.6%", "0.256", True),
        ("0.25", "25.6%", True),  # within a hundredth, the published tolerance
        ("-12.5", "12.5", False),
        ("- 12.5", "-12.5", False),  # a minus sign counts directly in front of the digits only
        ("(5)", "-5", False),  # brackets have no meaning
        ("(5)", "5", True),
        ("$(5)", "5", True),
        ("1,234,567.5", "1234567.5", True),
        ("1e3", "1000", True),
        ("007", "7", False),  # no literal of Python
        ("9" * 400, "5", False),  # no float holds this number
        ("9" * 5000, "5", False),
        ("\n5", "5", False),  # the first line is empty
        ("the answer is 3, or 4", "4", True),  # any number of the first line
        ("3\n4", "4", False),
        ("nothing", "4", False),
        ("", "4", False),
    ],
)
def test_convfinqa_matches_numbers(generated, answer, right):
    assert convfinqa_right(generated, answer) is right


@pytest.mark.parametrize(
    ("kind", "generated", "answer", "matches"),
    [
        ("exact", " It is  4.\n", "It is 4.", True),
        ("exact", "It is 4. Yes.", "It is 4.", False),
        ("contains", "I think it is 4, or so", "4", True),
        ("contains", "five", "4", False),
        ("number", "3 + 1,000 makes $1,003.00.", "The answer: 1003", True),
        ("number", r"so \frac{1}{2}", "0.5", True),
        ("number", "It was 4 and is 5", "4", False),
        ("number", "none", "4", False),
        ("number", "it is -7", "-7", True),
        ("number", "x=-$7", "-7", True),
        ("number", "pages 5-7", "7", True),  # a range has no minus sign
        ("number", "(10)-3", "3", True),
        ("number", "covid-19", "19", True),
        ("number", "1e6", "3e6", False),
        ("number", "about 2.5e-3 m", "0.0025", True),
        ("number", "2.5e-3", "7.1e-3", False),
        ("number", "1E+2", "100", True),
        ("number", "-1.5e2", "-150", True),
        ("number", "1e1000", "1000", True),  # too large an exponent is another number
        ("number", "vitamin b2e", "2", True),
    ],
)
def test_an_answer_matches(kind, generated, answer, matches):
    assert scorers.answer_matches(kind, generated, answer) is matches
