"""AdaptLLM's reading-comprehension form."""

import re

from experiments.data import corpora, reading

from .tokenizers_of import CACHE

TEXT = (
    "The receptor binds insulin in the membrane. Therefore, glucose enters the cell. The patients were treated early "
    "because their glucose had risen for weeks. However, two of them did not respond to the treatment."
)


def test_the_same_seed_gives_the_same_text_and_another_another():
    assert reading.comprehension(TEXT, 0, "medicine") == reading.comprehension(TEXT, 0, "medicine")
    assert len({reading.comprehension(TEXT, seed, "medicine") for seed in range(8)}) > 1


def test_the_text_stands_whole_before_its_questions():
    read = reading.comprehension(TEXT, 0, "medicine")
    assert TEXT in read
    assert read.index(TEXT) < read.index("Question:")


def test_each_kind_of_question_is_mined():
    vocabulary = frozenset({"receptor", "insulin", "membrane", "patients", "treated", "glucose", "receptors"})
    long_words = TEXT.replace("insulin", "insulin-like")
    read = reading.comprehension(
        long_words, 0, "medicine", title="Insulin", limit=20, vocabulary=vocabulary | {"insulin-like"}
    )
    asked = dict(re.findall(r"Question: (.*)\nAnswer: (.*)", read))
    by_answer = {answer: question for question, answer in asked.items()}
    assert "Insulin" in by_answer  # the title
    assert "insulin-like" in by_answer["The receptor binds insulin-like in the membrane."]  # word to text
    entailed = by_answer["Yes"]
    assert "The receptor binds" in entailed
    assert "Glucose enters the cell." in entailed
    assert any("their glucose had risen for weeks" in answer for answer in asked.values())  # cause
    assert any("two of them did not respond" in question.lower() for question in asked)  # contrast


def test_own_questions_are_always_asked():
    read = reading.comprehension(TEXT, 3, "finance", own_questions={"What is the topic?": "trade"}, limit=1)
    assert re.findall(r"Question: (.*)\nAnswer: (.*)", read) == [("What is the topic?", "trade")]


def test_a_text_that_asks_nothing_is_completed_or_left_alone():
    plain = "One is here. Two is here. Three is here. Four is here."
    read = reading.comprehension(plain, 0, "finance")
    assert "Question:" not in read
    assert all(sentence in read for sentence in reading.sentences(plain))
    assert reading.comprehension("Too short to cut.", 0, "finance") == "Too short to cut."


def test_keywords_are_the_domains():
    documents = [abstract for abstract, _ in corpora.yes_no(CACHE, "bioasq")[:200]]
    words = reading.keywords(documents, corpora.c4(CACHE)[0])
    assert words == reading.keywords(documents, corpora.c4(CACHE)[0])
    ranked = reading.keywords(documents, corpora.c4(CACHE)[0], 200)
    assert ranked <= words
    assert "expression" in ranked
    assert "website" not in words


def test_real_abstracts_get_questions():
    documents = [abstract for abstract, _ in corpora.yes_no(CACHE, "bioasq")[:100]]
    vocabulary = reading.keywords(documents, [])
    read = [reading.comprehension(text, 0, "biomedicine", vocabulary=vocabulary) for text in documents]
    assert sum("Question:" in text for text in read) > 60
