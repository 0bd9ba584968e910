"""The tasks on real data: their declarations, their training data and their questions, which share nothing."""

import re
from math import inf, isnan, nan

import numpy as np
import pytest
import torch

from experiments import runner, tasks
from experiments.data import corpora, overlap, wordproblems
from experiments.data.prompts import ALPACA, ALPACA_INPUT
from experiments.data.questions import Benchmark, ChoiceQuestion
from experiments.data.rows import IGNORED
from experiments.errors import ConfigError
from experiments.measure.evaluation import Answers
from experiments.spec import run_config
from experiments.tasks import math
from experiments.tasks.finetuning import likeliest_per_token
from experiments.train import scratch

from ..conftest import compose
from ..data.tokenizers_of import CACHE, byte_level

PLAIN_TEXT_TASKS = ("biomed", "finance", "pretrain")
FINE_TUNING_TASKS = ("instruct", "math", "biomed", "finance")
TASKS_WITH_DATA = ("instruct", "math", *PLAIN_TEXT_TASKS)
FEW_STEPS = ("training.steps=2", "training.warmup_steps=1", "training.log_every=1")
# The words of the prompts, which all rows share.
FRAME = sorted(
    {part for form in (ALPACA, ALPACA_INPUT) for part in re.split(r"\{\w+\}", form)}
    | {"The following are multiple choice questions (with answers) about "},
    key=len,
    reverse=True,
)


def configuration(task, *overrides):
    return compose(f"task={task}", "hardware=cpu", "logger=none", *overrides)


def prepare(task, tmp_path, *overrides, tokenizer=None):
    config = configuration(task, f"paths.results={tmp_path}", *overrides)
    return tasks.get(task).prepare(config, tokenizer or byte_level())


@pytest.mark.parametrize("name", tasks.names())
def test_what_a_task_declares_fits_together(name):
    task = tasks.get(name)
    assert task.name == name
    names = [metric.name for metric in task.metrics]
    assert len(set(names)) == len(names)
    assert task.headline in names
    settings = set(run_config.TaskSettings.model_fields)
    assert settings >= set(task.needs)
    for metric in task.metrics:
        assert metric.stands_for in ("", *names)
        assert metric.stands_for == "" or task.metric(metric.stands_for).stands_for == ""
        assert metric.questions in settings or not isinstance(metric.questions, str)
    assert task.row_tokens(configuration(name)) > 0


def test_the_headlines_of_a_task_start_with_the_papers():
    assert tasks.get("uuid").headlines == ("char_accuracy",)
    assert tasks.get("math").headlines == ("gsm8k", "answer_bits_per_byte", "gsm8k_subset", "gsm8k_heldout")
    assert tasks.get("finance").headlines == (
        "finance_avg", "heldout_perplexity", "trained_perplexity", "reuters_topic",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("math", ["~task.new_tokens"], "task.new_tokens is missing; task=math cannot do without"),
        ("uuid", ["~task.pairs"], "task.pairs is missing; task=uuid cannot do without"),
        ("uuid", ["task.name=poetry"], "task.name must be one of .*uuid, got 'poetry'"),
    ],
)
def test_a_setting_that_a_task_needs_is_missing(name, overrides, message):
    config = configuration(name, *overrides)
    with pytest.raises(ConfigError, match=message):
        tasks.of(config)


@pytest.mark.parametrize("name", FINE_TUNING_TASKS)
@pytest.mark.parametrize("questions", [4, 20])
def test_the_benchmarks_are_as_the_task_declares(name, questions, tmp_path):
    """The test compares the number of questions of each metric, and the score of a guess."""
    settings = ("scale=smoke", f"task.questions={questions}")
    config, task = configuration(name, *settings), tasks.get(name)
    for benchmark in prepare(name, tmp_path, *settings).evaluation.benchmarks:
        metric = task.metric(benchmark.name)
        assert metric.question_count(config.task) == len(benchmark.questions)
        options = {len(question.choices) for question in benchmark.questions if isinstance(question, ChoiceQuestion)}
        assert metric.floor == (100 / options.pop() if options else None)
        assert not options
        own = task.floor(benchmark).get(f"{benchmark.name}_floor")
        if metric.floor is None:
            assert own is None
        else:  # a model that always gives the same answer is right as often as the best guess, or more often
            golds = [question.gold for question in benchmark.questions]
            assert own == max(100 * golds.count(gold) / len(golds) for gold in golds) >= metric.floor


def test_the_questions_of_whole_benchmarks_are_as_declared():
    assert tasks.metric("instruct", "mmlu_5shot").questions == len(corpora.mmlu(CACHE, "test"))
    medical = corpora.mmlu(CACHE, "test", corpora.MEDICAL_SUBJECTS)
    assert tasks.metric("biomed", "bio_mmlu").questions == len(medical)
    assert tasks.metric("math", "gsm8k").questions == len(corpora.gsm8k(CACHE))
    assert tasks.metric("math", "math").questions == sum(map(len, corpora.competition_math(CACHE)))


@pytest.mark.parametrize("task", TASKS_WITH_DATA)
def test_a_task_prepares_the_same_data_each_time(task, tmp_path):
    first = prepare(task, tmp_path, "scale=smoke")
    again = prepare(task, tmp_path, "scale=smoke")
    assert first.fingerprint == again.fingerprint
    assert (first.train.ids == again.train.ids).all()
    row = first.train[0]
    counted = row["labels"] != IGNORED
    assert counted.all() if task in PLAIN_TEXT_TASKS else 0 < counted.sum() < len(counted)
    assert first.notes["overlap"]["checked"] > 0


@pytest.mark.parametrize("task", TASKS_WITH_DATA)
def test_the_seed_of_a_run_does_not_change_what_is_measured(task, tmp_path):
    first, second = (prepare(task, tmp_path, "scale=smoke", f"seed={seed}").evaluation for seed in (0, 1))
    assert (first.rows.ids == second.rows.ids).all()
    assert [b.questions for b in first.benchmarks] == [b.questions for b in second.benchmarks]


def runs_of_words(text, length=13):
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


@pytest.mark.parametrize("task", TASKS_WITH_DATA)
def test_nothing_that_trains_is_measured(task, tmp_path, capsys):
    """The test compares the decoded tokens of both, without the words of the prompts."""
    long_rows = ["task.max_length=8192"] if task in ("instruct", "math") else []
    # This tokenizer loses nothing, and decodes faster than a tokenizer of bytes.
    tokenizer = scratch.learned_tokenizer(4096, CACHE)
    prepared = prepare(task, tmp_path, "scale=laptop", "task.train_rows=null", *long_rows, tokenizer=tokenizer)
    message, evaluation = capsys.readouterr().err, prepared.evaluation

    def runs_in(text):
        for part in FRAME:
            text = text.replace(part, "</s>")
        return set().union(*map(runs_of_words, re.split("</s>|<s>", text)))

    train = runs_in(tokenizer.decode(prepared.train.ids.tolist()))
    measured = runs_in(tokenizer.decode(evaluation.rows.ids.tolist()))
    measured |= runs_in(tokenizer.decode(evaluation.general.ids.tolist()))
    for benchmark in evaluation.benchmarks:
        for question in benchmark.questions:
            measured |= runs_in(question.prompt)
    assert len(train) > 10_000
    assert len(measured) > 500
    shared = train & measured
    assert not shared, (len(shared), sorted(shared)[:3])
    counts = prepared.notes["overlap"]
    assert counts["dropped"] == counts["overlapping"]
    if counts["dropped"]:
        assert f"{task}: dropped {counts['dropped']} of {counts['checked']} training texts" in message


def test_overlapping_texts_are_recognised():
    held_out = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    inside = f"before {held_out.upper().replace(' ', ', ')} after"
    twelve = " ".join(held_out.split()[:12]) + " other words"
    assert list(overlap.overlaps([inside, twelve, "short"], [held_out])) == [True, False, False]
    assert list(overlap.overlaps(["A short question?"], ["a short question"])) == [True]
    items, counts = overlap.filtered("t", [twelve, inside, "a", "b"], str, [held_out], True, limit=2)
    assert items == [twelve, "a"]
    assert counts == {"checked": 3, "overlapping": 1, "dropped": 1}
    items, counts = overlap.filtered("t", [twelve, inside], str, [held_out], False)
    assert items == [twelve, inside]
    assert counts == {"checked": 2, "overlapping": 1, "dropped": 0}


def test_math_splits_keep_paraphrases_apart():
    train, held_out, math500 = math.split(CACHE)
    assert (len(held_out), len(math500)) == (200, 500)
    assert not {p.question for p in (*held_out, *math500)} & {p.question for p in train}
    generated = [wordproblems.trigrams(p.question) for _, p in wordproblems.generate(CACHE, 1)]
    assert not any(wordproblems.is_paraphrased(p.question, generated) for p in held_out)
    # Among all questions of GSM8K, the check recognises the originals of most of the 100 templates.
    originals = sum(wordproblems.is_paraphrased(p.question, generated) for p in corpora.gsm8k(CACHE))
    assert 70 < originals < 200


def test_generated_word_problems_are_right_and_the_same_each_time():
    first, again = wordproblems.generate(CACHE, 2), wordproblems.generate(CACHE, 2)
    assert first == again
    assert len({template for template, _ in first}) > 80
    assert wordproblems.consistent("She has 3 + 4 = 7 and 7 * 2 = $14.")
    assert not wordproblems.consistent("She has 3 + 4 = 8.")
    assert wordproblems.consistent("10 / 3 = 3.33")


@pytest.mark.parametrize(("choices", "index"), [(("a", "abc"), 1), (("a", "b"), 0)])
def test_adaptllm_chooses_by_the_mean_over_tokens(choices, index):
    benchmark, answers = Benchmark("b", [ChoiceQuestion("?", choices, 0)]), Answers(0.0, likelihoods=[[-4.0, -6.0]])
    assert likeliest_per_token(benchmark, answers, byte_level()) == [index]


def test_corpora_have_the_sizes_that_the_docs_say():
    assert len(corpora.alpaca(CACHE)) == 999
    assert tuple(map(len, corpora.c4(CACHE))) == (240, 60)
    assert len(corpora.wikipedia(CACHE)) == 30
    assert len(corpora.brown(CACHE)) == 500
    assert len(corpora.gsm8k(CACHE)) == 1319
    assert tuple(map(len, corpora.competition_math(CACHE))) == (4500, 500)
    assert len(corpora.mmlu(CACHE, "test")) == 14_042
    assert len(corpora.mmlu(CACHE, "dev")) == 285
    assert len(corpora.yes_no(CACHE, "pubmedqa")) == 401
    assert len(corpora.yes_no(CACHE, "bioasq")) == 1181
    assert len(corpora.medqa(CACHE)) == 1273
    assert {len(q.options) for q in corpora.medqa(CACHE)} == {5}
    assert len(corpora.reuters(CACHE, "r52-train")) == 6532
    assert len(corpora.reuters(CACHE, "r8-test")) == 2189


def test_brown_reads_as_text():
    tagged = "``/`` The/at jury/nn ''/'' ,/, it/pps said/vbd (/( twice/rb )/) ./.\n\n\tNo/at ./.\n"
    assert corpora.untag(tagged) == '"The jury", it said (twice).\nNo.'


def test_rows_of_a_user_train_and_are_part_of_the_key(smoke, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "What is 2 + 2?", "response": "It is 4. The answer is: 4"}\n' * 4)
    prepared = tasks.get("math").prepare(smoke("task=math", f"task.train_file={rows}"), byte_level())
    assert len(prepared.train) == 4
    assert "It is 4." in byte_level().decode(prepared.train[0]["input_ids"])

    def key(path):
        one_step = ("training.steps=1", "training.warmup_steps=0", "training.log_every=1", "task.heldout_rows=1")
        return runner.run(smoke("task=pretrain", f"task.train_file={path}", *one_step)).key

    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("Some words. " * 60)
    second.write_text(first.read_text())
    before = key(first)
    assert key(second) == before
    second.write_text("Other words. " * 60)
    assert key(second) != before


@pytest.mark.parametrize("task", TASKS_WITH_DATA)
def test_a_cell_from_start_to_record(task, smoke):
    """Two steps at smoke scale: metrics before and after training, and the entries of the record."""
    record = runner.run(smoke(f"task={task}", *FEW_STEPS))
    assert record.status == "finished", record.error
    final = record.metrics["final"]
    assert any(final.get(name, 0) > 0 for name in tasks.get(task).headlines)
    kinds = ["", *re.findall("<metric>(_[a-z0-9_]+)", tasks.Task.__doc__)]
    assert final.keys() <= {f"{metric.name}{kind}" for metric in tasks.get(task).metrics for kind in kinds}
    if task != "pretrain":
        loss = tasks.get(task).loss
        assert final["general_perplexity"] != final["general_perplexity_before"]
        assert final[loss] > 0
        assert final[f"{loss}_before"] > 0
    assert {"step", "loss"} <= set(record.metrics["curve"][0])
    assert record.provenance["task_version"] == tasks.get(task).version
    assert record.provenance["data_fingerprint"]
    assert any(pin.startswith("llamafactory==") for pin in record.provenance["sources"])
    assert record.cost["tokens"] > 0


def test_method_none_records_the_scores_of_the_base_model(smoke):
    record = runner.run(smoke("method=none", "task=finance"))
    assert record.status == "finished", record.error
    assert record.cell["method"] == "none"
    assert record.cell["learning_rate"] is None
    assert record.cost["trainable_parameters"] == record.cost["tokens"] == 0
    trained = runner.run(smoke("method=mora", "task=finance", *FEW_STEPS))
    for name in ("heldout_perplexity", "general_perplexity"):
        assert record.metrics["final"][name] == pytest.approx(trained.metrics["final"][f"{name}_before"])
    # Nothing trains, so a run with another setting of the training is the same run.
    assert runner.run(smoke("method=none", "task=finance", "training.steps=7")).key == record.key


class Array0d:
    """A number of numpy or torch."""

    shape = ()

    def item(self):
        return 3.5


def test_the_numbers_of_a_task_may_be_those_of_numpy_and_torch():
    given = {"a": np.float64(3.5), "b": np.float32(3.5), "c": torch.tensor(3.5), "d": Array0d(), "e": 3.5, "f": 3}
    found = tasks.numbers(given, "evaluate of the task")
    assert found == dict.fromkeys("abcde", 3.5) | {"f": 3}
    assert {type(value) for value in found.values()} == {float, int}
    assert isnan(tasks.numbers({"a": np.float64("nan")}, "it")["a"])


@pytest.mark.parametrize(("given", "line"), [
    ({"loss": "3.5"}, "evaluate of the task: loss must be a number, and is a str"),
    ({"loss": torch.ones(2)}, "evaluate of the task: loss must be a number, and is a Tensor"),
    ({"loss": True}, "evaluate of the task: loss must be a number, and is a bool"),
    (3.5, "evaluate of the task must return metrics by name, and returned a float"),
])  # fmt: skip
def test_what_is_no_number_is_named(given, line):
    with pytest.raises(TypeError, match=f"^{re.escape(line)}$"):
        tasks.numbers(given, "evaluate of the task")


@pytest.mark.parametrize(("function", "returned", "message"), [
    ("evaluate", {"char_accuracy": 3.0}, "task=uuid: evaluate returned no value_loss; the task declares it"),
    ("evaluate", {"value_loss": 3.0}, "task=uuid: evaluate returned no char_accuracy; the task declares it"),
    ("evaluate", {"char_accuracy": "x", "value_loss": 1.0}, "evaluate of the task: char_accuracy must be a number"),
    ("measure", {"char_accuracy": "x"}, "measure of the task: char_accuracy must be a number, and is a str"),
    ("evaluate", {"char_accuracy": 3.0, "value_loss": 1.0, "key_loss": nan}, "leave out a metric that has no value"),
])  # fmt: skip
def test_a_run_whose_task_gives_no_numbers_fails_and_says_so(function, returned, message, smoke, monkeypatch):
    """Before, a missing selection chose a rate from nothing, and a text in the curve left a record at `running`."""
    monkeypatch.setattr(type(tasks.get("uuid")), function, named(function, returned))
    record = runner.run(smoke("method=lora", "training.steps=2", "training.warmup_steps=0"))
    assert record.status == "failed"
    assert message in record.error["message"]
    assert record.error["type"] in ("TypeError", "LookupError", "ValueError")


@pytest.mark.parametrize("given", [
    {"char_accuracy": 3.0, "value_loss": nan}, {"char_accuracy": nan, "value_loss": 1.0, "key_loss": nan},
    {"char_accuracy": 3.0, "value_loss": 1.0, "key_loss": inf},
])  # fmt: skip
def test_a_run_without_a_finite_headline_or_with_an_infinite_metric_has_diverged(given):
    with pytest.raises(FloatingPointError, match="diverged at step 7"):
        runner.check_final(tasks.get("uuid"), given, 7)


@pytest.mark.parametrize("higher", [True, False])
def test_what_selects_the_rate_may_be_better_when_it_is_higher(higher, monkeypatch):
    metric = tasks.Metric("value_loss", "some score", higher_is_better=higher)
    monkeypatch.setattr(type(tasks.get("uuid")), "metrics", (metric,))
    assert tasks.get("uuid").criterion() == tasks.Criterion("value_loss", "some score", higher_is_better=higher)


def test_a_task_may_need_settings_of_its_own(smoke, monkeypatch):
    config = smoke("method=lora")
    monkeypatch.setattr(type(tasks.get("uuid")), "needs", ("pairs", "letters"))
    for settings in (None, {"other": 3}, {"letters": None}):
        with pytest.raises(ConfigError, match=r"^task.letters is missing; task=uuid cannot do without it$"):
            tasks.of(config.replace(task=config.task.replace(settings=settings)))
    tasks.of(config.replace(task=config.task.replace(settings={"letters": 4})))


def test_numbers_of_torch_finish_a_run(smoke, monkeypatch):
    given = {"char_accuracy": torch.tensor(50.0), "value_loss": np.float32(1.5)}
    monkeypatch.setattr(type(tasks.get("uuid")), "evaluate", named("evaluate", given))
    monkeypatch.setattr(type(tasks.get("uuid")), "measure", named("measure", {"char_accuracy": torch.tensor(5.0)}))
    record = runner.run(smoke("method=lora", "training.steps=2", "training.warmup_steps=0"))
    assert record.status == "finished"
    assert (record.metrics["final"]["char_accuracy"], record.metrics["final"]["value_loss"]) == (50.0, 1.5)
    assert record.metrics["curve"][-1]["char_accuracy"] == 5.0


def named(name, returned):
    """A function of a task that returns this."""

    def function(self, model, tokenizer, data):
        return returned

    function.__name__ = name
    return function
