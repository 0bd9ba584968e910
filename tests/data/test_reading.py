"""AdaptLLM's reading-comprehension form."""

import re

from experiments.data import corpora, reading

from .tokenizers_of import CACHE

TEXT = (
    "The receptor binds insulin in the membrane. Therefore, glucose enters the cell. The patients were treated early "
    "because their glucose had risen for weeks. However, two of them did not respond to the treatment."
)


def test_the_seed_decides_the_text():
    assert reading.comprehension(TEXT, 0, "medicine") == reading.comprehension(TEXT, 0, "medicine")
    assert len({reading.comprehension(TEXT, seed, "medicine") for seed in range(8)}) > 1


def test_the_whole_text_stands_before_its_questions():
    read = reading.comprehension(TEXT, 0, "medicine")
    assert TEXT in read
    assert read.index(TEXT) < read.index("Question:")


def test_the_patterns_find_each_kind_of_question():
    vocabulary = frozenset({"receptor", "insulin", "membrane", "patients", "treated", "glucose", "receptors"})
    long_words = TEXT.replace("insulin", "insulin-like")
    read = reading.comprehension(
        long_words, 0, "medicine", title="Insulin", limit=20, vocabulary=vocabulary | {"insulin-like"}
    )
    answers = dict(re.findall(r"Question: (.*)\nAnswer: (.*)", read))
    by_answer = {answer: question for question, answer in answers.items()}
    assert "Insulin" in by_answer  # the title
    # A question asks for a sentence with a word.
    assert "insulin-like" in by_answer["The receptor binds insulin-like in the membrane."]
    entailment = by_answer["Yes"]
    assert "The receptor binds" in entailment
    assert "Glucose enters the cell." in entailment
    assert any("their glucose had risen for weeks" in answer for answer in answers.values())  # cause
    assert any("two of them did not respond" in question.lower() for question in answers)  # contrast


def test_questions_that_come_with_a_text_are_always_asked():
    read = reading.comprehension(TEXT, 3, "finance", own_questions={"What is the topic?": "trade"}, limit=1)
    assert re.findall(r"Question: (.*)\nAnswer: (.*)", read) == [("What is the topic?", "trade")]


def test_a_text_without_questions_is_to_be_completed_or_stays_as_it_is():
    plain = "One is here. Two is here. Three is here. Four is here."
    read = reading.comprehension(plain, 0, "finance")
    assert "Question:" not in read
    assert all(sentence in read for sentence in reading.sentences(plain))
    assert reading.comprehension("Too short to cut.", 0, "finance") == "Too short to cut."


def test_keywords_are_words_of_the_domain():
    documents = [abstract for abstract, _ in corpora.yes_no(CACHE, "bioasq")[:200]]
    words = reading.keywords(documents, corpora.c4(CACHE)[0])
    assert words == reading.keywords(documents, corpora.c4(CACHE)[0])
    best = reading.keywords(documents, corpora.c4(CACHE)[0], 200)
    assert best <= words
    assert "expression" in best
    assert "website" not in words


def test_real_abstracts_get_questions():
    documents = [abstract for abstract, _ in corpora.yes_no(CACHE, "bioasq")[:100]]
    vocabulary = reading.keywords(documents, [])
    read = [reading.comprehension(text, 0, "biomedicine", vocabulary=vocabulary) for text in documents]
    assert sum("Question:" in text for text in read) > 60
