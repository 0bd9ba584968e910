"""The tasks on real data: what trains, what is measured, and that the two share nothing."""

import re

import pytest

from experiments import runner, tasks
from experiments.data import corpora, overlap, wordproblems
from experiments.data.prompts import ALPACA, ALPACA_INPUT
from experiments.data.rows import IGNORED
from experiments.tasks import math
from experiments.train import scratch

from ..conftest import compose
from ..data.tokenizers_of import CACHE, byte_level

TEXT_TASKS = ("biomed", "finance", "pretrain")
FEW = ("training.steps=2", "training.log_every=1")
NEW = ("instruct", "math", *TEXT_TASKS)


FRAME = sorted(
    {part for form in (ALPACA, ALPACA_INPUT) for part in re.split(r"\{\w+\}", form)}
    | {"The following are multiple choice questions (with answers) about "},
    key=len,
    reverse=True,
)


def prepare(task, tmp_path, *overrides, tokenizer=None):
    config = compose(f"task={task}", "hardware=cpu", "logger=none", f"paths.results={tmp_path}", *overrides)
    return tasks.get(task).prepare(config, tokenizer or byte_level())


@pytest.mark.parametrize("task", NEW)
def test_what_a_task_prepares(task, tmp_path):
    first = prepare(task, tmp_path, "scale=smoke")
    again = prepare(task, tmp_path, "scale=smoke")
    assert first.fingerprint == again.fingerprint
    assert (first.train.ids == again.train.ids).all()
    row = first.train[0]
    counted = row["labels"] != IGNORED
    assert counted.all() if task in TEXT_TASKS else 0 < counted.sum() < len(counted)
    assert first.notes["overlap"]["checked"] > 0


@pytest.mark.parametrize("task", NEW)
def test_a_runs_seed_does_not_change_what_is_measured(task, tmp_path):
    one, two = (prepare(task, tmp_path, "scale=smoke", f"seed={seed}").data for seed in (0, 1))
    assert (one.rows.ids == two.rows.ids).all()
    if task != "pretrain":
        assert [b.questions for b in one.benchmarks] == [b.questions for b in two.benchmarks]


def runs_of_words(text, length=13):
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


@pytest.mark.parametrize("task", NEW)
def test_nothing_that_trains_is_measured(task, tmp_path, capsys):
    """Decoded back from the tokens that train and that are measured, without what every prompt says."""
    long_rows = ["task.max_length=8192"] if task in ("instruct", "math") else []
    tokenizer = scratch.small_tokenizer(CACHE)  # lossless, and faster to take back than single bytes
    prepared = prepare(task, tmp_path, "scale=laptop", "task.train_rows=null", *long_rows, tokenizer=tokenizer)
    said, data = capsys.readouterr().err, prepared.data

    def runs_in(text):
        for part in FRAME:
            text = text.replace(part, "</s>")
        return set().union(*map(runs_of_words, re.split("</s>|<s>", text)))

    train = runs_in(tokenizer.decode(prepared.train.ids.tolist()))
    measured = runs_in(tokenizer.decode(data.rows.ids.tolist()))
    if task != "pretrain":
        measured |= runs_in(tokenizer.decode(data.general.ids.tolist()))
        for benchmark in data.benchmarks:
            for question in benchmark.questions:
                measured |= runs_in(question.prompt)
    assert len(train) > 10_000
    assert len(measured) > 500
    shared = train & measured
    assert not shared, (len(shared), sorted(shared)[:3])
    found = prepared.notes["overlap"]
    assert found["dropped"] == found["overlapping"]
    if found["dropped"]:
        assert f"{task}: dropped {found['dropped']} of {found['checked']} training texts" in said


def test_the_overlap_check_finds_what_is_there():
    held_out = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    inside = f"before {held_out.upper().replace(' ', ', ')} after"
    twelve = " ".join(held_out.split()[:12]) + " other words"
    assert list(overlap.overlaps([inside, twelve, "short"], [held_out])) == [True, False, False]
    assert list(overlap.overlaps(["A short question?"], ["a short question"])) == [True]
    kept, found = overlap.filtered("t", [twelve, inside, "a", "b"], str, [held_out], True, limit=2)
    assert kept == [twelve, "a"]
    assert found == {"checked": 3, "overlapping": 1, "dropped": 1}
    kept, found = overlap.filtered("t", [twelve, inside], str, [held_out], False)
    assert kept == [twelve, inside]
    assert found == {"checked": 2, "overlapping": 1, "dropped": 0}


def test_math_splits_keep_paraphrases_apart():
    train, held_out, math500 = math.split(CACHE)
    assert (len(held_out), len(math500)) == (200, 500)
    taken = {p.question for p in (*held_out, *math500)}
    assert not taken & {p.question for p in train}
    generated = [wordproblems.trigrams(p.question) for _, p in wordproblems.generate(CACHE, 1)]
    assert not any(wordproblems.is_paraphrased(p.question, generated) for p in held_out)
    # The check has teeth: most templates find their original among all of GSM8K's questions.
    found = sum(wordproblems.is_paraphrased(p.question, generated) for p in corpora.gsm8k(CACHE))
    assert 70 < found < 200


def test_generated_word_problems_are_right_and_the_same_each_time():
    first, again = wordproblems.generate(CACHE, 2), wordproblems.generate(CACHE, 2)
    assert first == again
    assert len({template for template, _ in first}) > 80
    assert wordproblems.consistent("She has 3 + 4 = 7 and 7 * 2 = $14.")
    assert not wordproblems.consistent("She has 3 + 4 = 8.")
    assert wordproblems.consistent("10 / 3 = 3.33")


def test_corpora_are_what_they_are_said_to_be():
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


def test_a_users_rows_train_and_are_part_of_the_key(smoke, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "What is 2 + 2?", "response": "It is 4. The answer is: 4"}\n' * 4)
    prepared = tasks.get("math").prepare(smoke("task=math", f"task.train_file={rows}"), byte_level())
    assert len(prepared.train) == 4
    assert "It is 4." in byte_level().decode(prepared.train[0]["input_ids"])

    def key(path):
        few = ("training.steps=1", "training.log_every=1", "task.heldout_rows=1")
        return runner.run(smoke("task=pretrain", f"task.train_file={path}", *few)).key

    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("Some words. " * 60)
    second.write_text(first.read_text())
    before = key(first)
    assert key(second) == before
    second.write_text("Other words. " * 60)
    assert key(second) != before


@pytest.mark.parametrize("task", NEW)
def test_a_cell_from_start_to_record(task, smoke):
    """Trained for a few steps at smoke scale: metrics before and after, and what the record must say."""
    record = runner.run(smoke(f"task={task}", *FEW))
    assert record.status == "finished", record.error
    final = record.metrics["final"]
    assert final[tasks.get(task).headline] > 0
    if task != "pretrain":
        assert final["general_loss"] != final["general_loss_before"]
        assert final[f"{tasks.get(task).headline}_before"] > 0
    assert {"step", "loss"} <= set(record.metrics["curve"][0])
    assert record.provenance["task_version"] == tasks.get(task).version
    assert record.provenance["data_fingerprint"]
    assert any(pin.startswith("llamafactory==") for pin in record.provenance["sources"])
    assert record.cost["tokens"] > 0


def test_the_base_models_scores_are_a_record(smoke):
    record = runner.run(smoke("method=none", "task=finance"))
    assert record.status == "finished", record.error
    assert record.cell["method"] == "none"
    assert record.cell["learning_rate"] is None
    assert record.cost["trainable_parameters"] == record.cost["tokens"] == 0
    trained = runner.run(smoke("method=mora", "task=finance", *FEW))
    for name in ("heldout_perplexity", "general_loss"):
        assert record.metrics["final"][name] == pytest.approx(trained.metrics["final"][f"{name}_before"])
    # Nothing trains, so nothing about training makes another cell.
    assert runner.run(smoke("method=none", "task=finance", "training.steps=7")).key == record.key
