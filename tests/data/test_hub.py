"""The loaders of the hub's data sets, on local folders that have the names of the data sets.

`datasets` reads a folder that has the name of a data set before it asks the hub. So the tests make the same
calls as the paper scale, with the same configurations, columns and streams.
"""

import itertools
import json

import pytest

from experiments.data import corpora, hub, prompts
from experiments.data.questions import ChoiceQuestion, OpenQuestion
from experiments.errors import ConfigError

OPTIONS = {"id": 0, "input": "Sentiment of: up 5 %?\nAnswer:", "options": ["Negative", "Positive"], "gold_index": 1}
# name of the data set -> configuration (or None) -> split -> rows with the published columns
PUBLISHED = {
    hub.TULU: {
        None: {
            "train": [
                {
                    "dataset": "flan_v2",
                    "id": "flan_v2_0",
                    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                }
            ]
        }
    },
    hub.METAMATH: {
        None: {
            "train": [
                {
                    "type": "GSM_AnsAug",
                    "query": "1 + 1?",
                    "original_question": "1 + 1?",
                    "response": "It is 2.\n#### 2\nThe answer is: 2",
                }
            ]
        }
    },
    hub.GSM8K: {"main": {"test": [{"question": "Eggs?", "answer": "16 - 7 = <<16-7=9>>9\n#### 9"}]}},
    hub.MATH: {
        subject: {
            "test": [{"problem": subject, "level": "Level 1", "type": "x", "solution": r"So $\boxed{\frac{1}{2}}$."}]
        }
        for subject in corpora.MATH_SUBJECTS
    },
    hub.MMLU: {
        "all": {
            split: [{"question": f" {split}?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2}]
            for split in ("test", "dev")
        }
    },
    hub.C4: {
        "en": {
            split: [{"text": f"{split} {i}", "timestamp": "2019-04-25T12:57:54Z", "url": "u"} for i in range(3)]
            for split in ("train", "validation")
        }
    },
    hub.PILE: {
        None: {
            "train": [
                {"text": "code", "meta": {"pile_set_name": "Github"}},
                {"text": "abstract", "meta": {"pile_set_name": "PubMed Abstracts"}},
            ]
        }
    },
    hub.FINANCIAL_NEWS: {None: {"train": [{"title": "Shares rise", "text": "They rose.", "url": "u"}]}},
    hub.MEDICINE_TASKS: {name: {"test": [OPTIONS]} for name in ("PubMedQA", "USMLE", "RCT")},
    hub.FINANCE_TASKS: {
        "FPB": {"test": [OPTIONS]},
        "FiQA_SA": {"test": [OPTIONS]},
        "Headline": {"test": [OPTIONS | {"class_id": 4}]},
        "NER": {"test": [{"id": 0, "input": "Entities of: Acme\nAnswer:", "label": ["Acme (ORG)"]}]},
        "ConvFinQA": {"test": [{"id": 0, "input": "What was it?", "label": "206588.0"}]},
    },
}


def publish(folder, name, configurations):
    """Write a data set in the form of a repository on the hub: JSON lines, and a card that names the configurations."""
    repository = folder / name
    repository.mkdir(parents=True)
    lines = ["---", "configs:"]
    for configuration, splits in configurations.items():
        lines += [f"- config_name: {configuration or 'default'}", "  data_files:"]
        for split, rows in splits.items():
            file = f"{configuration or 'default'}-{split}.jsonl"
            (repository / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
            lines += [f"  - split: {split}", f"    path: {file}"]
    (repository / "README.md").write_text("\n".join([*lines, "---", ""]))


@pytest.fixture
def published(tmp_path, monkeypatch):
    for name, configurations in PUBLISHED.items():
        publish(tmp_path, name, configurations)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def test_tulu(published):
    assert hub.tulu() == [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]


def test_metamath(published):
    ((question, answer),) = hub.metamath()
    assert question["content"] == "1 + 1?"
    assert answer["content"].endswith("The answer is: 2")


def test_further_lines_of_a_question_of_metamath_are_alpacas_input(published, monkeypatch):
    monkeypatch.setattr(hub, "load", lambda *_, **__: [{"query": "Who wins?\nA: 1\nB: 2", "response": "B"}])
    (conversation,) = hub.metamath()
    text = prompts.alpaca(conversation, "</s>").text
    assert "paired with an input" in text
    assert text.endswith("### Instruction:\nWho wins?\n\n### Input:\nA: 1\nB: 2\n\n### Response:B</s>")


def test_gsm8k_and_math(published):
    (problem,) = hub.gsm8k()
    assert (problem.question, problem.answer) == ("Eggs?", "9")
    problems = hub.competition_math()
    assert [p.question for p in problems] == list(corpora.MATH_SUBJECTS)
    assert {p.answer for p in problems} == {r"\frac{1}{2}"}


def test_mmlu(published):
    (question,) = hub.mmlu("dev")
    assert (question.text, question.options, question.gold) == ("dev?", ("a", "b", "c", "d"), 2)


def test_streams(published):
    assert list(itertools.islice(hub.c4("validation"), 2)) == ["validation 0", "validation 1"]
    assert list(hub.pubmed()) == ["abstract"]
    assert list(hub.financial_news()) == [("Shares rise", "They rose.")]


def test_adaptllm(published):
    choice = ChoiceQuestion(OPTIONS["input"], ("Negative", "Positive"), 1)
    for name in ("PubMedQA", "USMLE", "RCT"):
        assert hub.medicine(name) == [choice]
    assert hub.finance("FPB") == hub.finance("FiQA_SA") == [choice]
    assert hub.finance("Headline")[0].kind == 4
    assert hub.finance_open("NER") == [OpenQuestion("Entities of: Acme\nAnswer:", "Acme (ORG)")]
    assert hub.finance_open("ConvFinQA") == [OpenQuestion("What was it?", "206588.0")]


def test_a_missing_column_is_one_line(tmp_path, monkeypatch):
    publish(tmp_path, hub.METAMATH, {None: {"train": [{"query": "q", "answer": "a"}]}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ConfigError, match="meta-math/MetaMathQA has no column response; found: query, answer"):
        hub.metamath()


def test_without_a_hub_the_error_names_the_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"allenai/tulu-v2-sft-mixture cannot be loaded .*task\.data=packages") as e:
        hub.tulu()
    assert "\n" not in str(e.value)


def test_streamed_c4_becomes_full_windows(published):
    from experiments.tasks.pretrain import stream

    from .tokenizers_of import byte_level

    rows = list(stream(byte_level(), 8))
    # 3 documents of 7 bytes and an end token each.
    assert [len(row["input_ids"]) for row in rows] == [8, 8, 8]
    assert byte_level().decode(rows[0]["input_ids"]) == "train 0</s>"
    assert len(list(stream(byte_level(), 8, 2))) == 2
    with pytest.raises(ConfigError, match="1 documents do not fill one window of 9 tokens"):
        list(stream(byte_level(), 9, 1))


@pytest.mark.parametrize(("rows", "bytes_of_text"), [("null", 3 * len("validation 0")), ("2", 2 * len("validation 0"))])
def test_without_a_number_all_documents_are_held_out(published, rows, bytes_of_text):
    from experiments.tasks import pretrain

    from ..conftest import compose
    from .tokenizers_of import byte_level

    config = compose("task=pretrain", "task.data=hub", "task.max_length=8", f"task.heldout_rows={rows}")
    assert pretrain.TASK.prepare(config, byte_level()).evaluation.text_bytes == bytes_of_text


@pytest.mark.parametrize("task", ["instruct", "math", "biomed", "finance", "pretrain"])
def test_the_papers_protocol_prepares_from_the_hub(task, published, tmp_path):
    """The configuration of the paper scale, on the few rows above and with the tokenizer of `tiny`."""
    from experiments import tasks

    from ..conftest import compose
    from .tokenizers_of import byte_level

    few = {"heldout_rows": 1} | ({} if task == "pretrain" else {"probe_documents": 2})
    doubled = {  # so that one row trains and one row is held out
        hub.TULU: "default-train.jsonl",
        hub.METAMATH: "default-train.jsonl",
        hub.PILE: "default-train.jsonl",
        hub.FINANCIAL_NEWS: "default-train.jsonl",
    }
    for name, file in doubled.items():
        path = tmp_path / name / file
        path.write_text(path.read_text() * 2)
    examples = tmp_path / hub.MMLU / "all-dev.jsonl"
    examples.write_text(examples.read_text() * 7)
    extra = (
        ["task.train_rows=1", "task.max_length=8"]
        if task in ("biomed", "finance")
        else ["task.max_length=8"]
        if task == "pretrain"
        else []
    )
    config = compose(
        f"task={task}",
        "scale=paper",
        "hardware=cpu",
        f"paths.cache={tmp_path / 'own'}",
        *(f"task.{k}={v}" for k, v in few.items()),
        *extra,
    )
    prepared = tasks.get(task).prepare(config, byte_level())
    row = next(iter(prepared.train))
    assert len(row["input_ids"]) == len(row["labels"])
    if task == "pretrain":
        assert prepared.mean_length == 8
        return
    benchmarks = {b.name: b for b in prepared.evaluation.benchmarks}
    names = set(benchmarks)
    if task == "math":
        assert [benchmarks[name].new_tokens for name in ("gsm8k", "math")] == [512, 2048]
    if task == "biomed":
        assert benchmarks["bio_mmlu"].questions[0].prompt.count("Answer:") == 5 + 1  # five examples, and the question
    if task == "finance":
        for name in ("convfinqa", "ner"):
            assert (benchmarks[name].new_tokens, benchmarks[name].until) == (100, ("\n",))
    assert (
        names
        == {
            "instruct": {"mmlu_0shot", "mmlu_5shot"},
            "math": {"gsm8k", "math"},
            "biomed": {"pubmedqa", "usmle", "bio_mmlu", "rct"},
            "finance": {"convfinqa", "fiqa_sa", "headline", "ner", "fpb"},
        }[task]
    )


def test_a_streamed_cell_from_start_to_record(published, smoke):
    from experiments import runner

    few = ("task.max_length=8", "task.heldout_rows=2", "training.steps=2", "training.batch_size=1")
    record = runner.run(smoke("task=pretrain", "task.data=hub", "training.log_every=1", *few))
    assert record.status == "finished", record.error
    assert record.cost["tokens"] == 16
    assert record.metrics["final"]["perplexity"] > 1
