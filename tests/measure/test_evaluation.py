"""Measuring a model in memory."""

import json
import math
import random

import numpy as np
import pytest
import torch

from experiments import tasks
from experiments.data import corpora, questions
from experiments.data.questions import Benchmark, ChoiceQuestion, OpenQuestion
from experiments.data.rows import Rows
from experiments.data.windows import packed
from experiments.measure import benchmarks, evaluation
from experiments.measure.evaluation import Loss
from experiments.tasks import TaskData
from experiments.tasks.finetuning import EvaluationSet
from experiments.train import base_models

from ..data.tokenizers_of import CACHE, byte_level


@pytest.fixture(scope="module")
def model():
    return base_models.tiny_model()


def test_perplexity_equals_a_reference_computation(model, tmp_path):
    """The reference follows the definition, window by window, in double precision."""
    rows = packed(corpora.c4(CACHE)[1][:3], byte_level(), 300, tmp_path, keep_rest=True)
    assert rows.lengths[-1] < 300  # the last window is shorter
    double = base_models.tiny_model().double().eval()
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            log_p = double(row["input_ids"][None]).logits[0].log_softmax(-1)
            nats -= sum(log_p[i - 1, token].item() for i, token in enumerate(row["input_ids"].tolist()) if i)
            tokens += len(row["input_ids"]) - 1
    measured = Loss.of(model, rows)
    assert measured.tokens == tokens
    assert measured.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert measured.bits == pytest.approx(nats / math.log(2), rel=1e-5)


def test_only_counted_tokens_count_and_padding_changes_nothing(model):
    rows = Rows.of([([0, 70, 80, 90], [False, False, True, True]), ([0, 70, 80, 90, 100, 110], [False] * 5 + [True])])
    loss = Loss.of(model, rows)
    losses_of_rows = [Loss.of(model, rows[i : i + 1]) for i in range(2)]
    assert loss.tokens == 3
    assert loss.nats == pytest.approx(sum(row_loss.nats for row_loss in losses_of_rows), rel=1e-5)


def test_a_measurement_leaves_no_trace(model):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    model.train()
    evaluation.ask(model, byte_level(), [Benchmark("one", [ChoiceQuestion("a", ("b", "c"), 0)])], 1)
    Loss.of(model, Rows.of([([0, 70, 80], [True] * 3)]))
    assert model.training
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.get_rng_state().tolist() == before[2]


def test_choices_are_ranked_by_their_likelihood(model):
    """The log-likelihood of a choice is the sum over its tokens. The test computes it directly from the model."""
    tokenizer = byte_level()
    choice_questions = [
        ChoiceQuestion("What?", ("yes", "no indeed"), 1),
        ChoiceQuestion("A longer question, to be padded?", ("no", "yes"), 0),
    ]
    answers = evaluation.ask(model, tokenizer, [Benchmark("pair", choice_questions)], 2)["pair"]
    model.eval()
    for question, likelihoods in zip(choice_questions, answers.likelihoods, strict=True):
        for choice, likelihood in zip(question.choices, likelihoods, strict=True):
            ids = torch.tensor(tokenizer.encode(f"{question.prompt} {choice}"))
            with torch.no_grad():
                log_p = model(ids[None]).logits[0].log_softmax(-1)
            expected = sum(log_p[i - 1, ids[i]].item() for i in range(len(ids) - len(choice) - 1, len(ids)))
            assert likelihood == pytest.approx(expected, rel=1e-4)
    chosen = [row.index(max(row)) for row in answers.likelihoods]
    assert answers.chosen == chosen
    assert answers.lm_eval == sum(c == q.gold for c, q in zip(chosen, choice_questions, strict=True)) / 2


def test_generations_are_capped_and_in_the_order_of_the_questions(model):
    tokenizer = byte_level()
    open_questions = [OpenQuestion("A long question that comes first?", "1"), OpenQuestion("Short?", "2")]
    benchmark = Benchmark("open", open_questions, ("###",), 5, questions.GSM8K_EXTRACT)
    answers = evaluation.ask(model, tokenizer, [benchmark], 2)["open"]
    model.eval()
    for question, text in zip(open_questions, answers.texts, strict=True):
        ids = torch.tensor([tokenizer.encode(question.prompt)])
        with torch.no_grad():
            alone = model.generate(ids, do_sample=False, max_new_tokens=5, pad_token_id=2)[0, ids.shape[1] :]
        assert text == tokenizer.decode(alone, skip_special_tokens=True)


def test_questions_that_are_cut_are_counted(model, capsys):
    """The tiny model reads 2,048 tokens, of which a generated answer takes its share."""
    tokenizer = byte_level()
    choices = [ChoiceQuestion("q" * n, ("yes", "no"), 1) for n in (10, 2040, 2044, 3000)]
    opened = [OpenQuestion("q" * n, "1") for n in (10, 2042, 2044)]
    asked = [Benchmark("choice", choices), Benchmark("open", opened, ("###",), 5, questions.GSM8K_EXTRACT)]
    answers = evaluation.ask(model, tokenizer, asked, 2)
    # A byte is a token; the first token and " yes" come to the 2,044 bytes, and the last token is not read.
    assert (answers["choice"].cut, answers["open"].cut) == (1, 1)
    assert "warning: choice: 1 questions are longer than the 2048 tokens" in capsys.readouterr().err


def test_the_number_of_questions_that_are_cut_reaches_the_metrics(model, tmp_path):
    """Of a task's own benchmarks, and of a group of lm-eval with its tasks."""
    tokenizer, rows = byte_level(), Rows.of([([0, 70, 80], [True] * 3)])
    lengths = {"gsm8k": (10, 3000, 3000), "math": (10,)}
    asked = [
        Benchmark(name, [OpenQuestion("q" * n, "1") for n in sizes], ("###",), 5, questions.GSM8K_EXTRACT)
        for name, sizes in lengths.items()
    ]
    data = TaskData((), EvaluationSet(rows, 2, benchmarks=asked), "")
    found = tasks.get("math").evaluate(model, tokenizer, data)
    assert {name: value for name, value in found.items() if name.endswith("_cut")} == {"gsm8k_cut": 2}

    for name in ("long", "longer"):
        lines = [json.dumps({"question": "q" * n, "choices": ["a", "b"], "gold": 0}) for n in (10, 3000)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        (tmp_path / f"{name}.yaml").write_text(CHOICES.format(name=name))
    (tmp_path / "both.yaml").write_text(GROUP)
    found = benchmarks.load(["both"], str(tmp_path)).scores(model, tokenizer, 2)
    assert {name: value for name, value in found.items() if name.endswith("_cut")} == {
        **{"long_cut": 1, "longer_cut": 1, "both_cut": 2}
    }


CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {name}.jsonl
test_split: train
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""
GROUP = "group: both\ntask: [long, longer]\naggregate_metric_list: [{metric: acc}]\n"


def test_word_problems_are_asked_as_in_metamaths_evaluation():
    problem = corpora.Problem("What is 1 + 1?", "It is 2.", "2")
    benchmark = questions.problems("gsm8k", [problem], "alpaca", questions.GSM8K_EXTRACT, 512)
    assert benchmark.questions[0].prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWhat is 1 + 1?\n\n### Response: Let's think step by step."
    )
    stops = [
        name + colon for name in ("Question", "USER", "ASSISTANT", "Instruction", "Response") for colon in (":", "")
    ]
    assert all(any(text in stop for text in benchmark.until) for stop in stops)
    assert set(benchmark.until) <= set(stops)
    other = questions.problems("gsm8k", [problem], "open-instruct", questions.GSM8K_EXTRACT, 512)
    assert other.questions[0].prompt == "<|user|>\nWhat is 1 + 1?\n<|assistant|>\n"


def test_the_prompts_of_mmlu_are_those_of_lm_eval():
    """The test compares real questions with lm-eval's own template, description and form of examples."""
    import datasets
    import yaml
    from lm_eval import tasks as lm_tasks
    from lm_eval.api.task import ConfigurableTask

    dev = corpora.mmlu(CACHE, "dev", ["anatomy"])
    test = corpora.mmlu(CACHE, "test", ["anatomy"])[:2]
    folder = next(iter(lm_tasks.__path__))
    with open(f"{folder}/mmlu/default/_default_template_yaml") as file:
        template = yaml.safe_load(file)
    with open(f"{folder}/mmlu/default/mmlu_anatomy.yaml") as file:
        template |= {k: v for k, v in yaml.safe_load(file).items() if k not in ("include", "tag", "task_alias")}

    def rows(of):
        return datasets.Dataset.from_list(
            [{"question": q.text, "choices": list(q.options), "answer": q.gold} for q in of]
        )

    template |= {"custom_dataset": lambda **_: {"dev": rows(dev), "test": rows(test)}, "num_fewshot": 5}
    template.pop("dataset_path"), template.pop("dataset_name")
    task = ConfigurableTask(config=template)
    ours = questions.mmlu("m", test, dev, 5).questions
    for document, question in zip(task.test_docs(), ours, strict=True):
        assert task.fewshot_context(document, num_fewshot=5) == question.prompt
        assert task.doc_to_choice(document) == list(question.choices)
        assert task.doc_to_target(document) == question.gold


@pytest.mark.slow
def test_the_real_model_knows_english(tmp_path):
    """The weights from the package, whose perplexity on C4 is known."""
    network, tokenizer, _ = base_models.load("smollm2-135m", CACHE, torch.float32)
    rows = packed(corpora.c4(CACHE)[1][:8], tokenizer, 512, tmp_path, keep_rest=True)
    assert 20 < Loss.of(network, rows).perplexity < 80  # 35.0 over all 300 documents
