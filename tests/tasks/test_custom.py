"""A user's own rows, model and benchmarks: the division of the rows, what is measured, and the errors of one line."""

import json
import random
import shutil

import pytest
from transformers import AutoTokenizer

from experiments import runner, tasks
from experiments.cli import script
from experiments.data import overlap, prompts
from experiments.data.rows import IGNORED
from experiments.errors import ConfigError
from experiments.identity import identity_of, key_of
from experiments.measure import benchmarks
from experiments.reuse import load
from experiments.spec import methods
from experiments.store.folder import read_records
from experiments.store.records import Record, Store
from experiments.tasks import custom
from experiments.tasks.base import Metric
from experiments.train import base_models, scratch
from scripts import evaluate

from ..data.test_userfile import swap
from ..data.tokenizers_of import byte_level

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}</s>{% endfor %}"
SYSTEM = "You add numbers for the customers of a shop and you always answer with one short sentence and no more."
ADDS = """
task: adds
dataset_path: json
dataset_kwargs: {data_files: {test: adds.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
SAYS = """
task: says
dataset_path: json
dataset_kwargs: {data_files: {test: adds.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: !function scoring.length_error, aggregation: mean, higher_is_better: false}
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: first, filter: [{function: take_first}]}
  - {name: number, filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]}
"""
SCORING = "def length_error(references, predictions):\n    return float(len(predictions[0]))\n"


def sums(count, seed=0):
    """Conversations about different sums, which share a system message."""
    pairs = random.Random(seed).sample([(a, b) for a in range(100) for b in range(100)], count)
    return [
        [{"role": "system", "content": SYSTEM}, *prompts.pair(f"What is {a} + {b}?", f"It is {a + b}.")]
        for a, b in pairs
    ]


def write(path, conversations):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return str(path)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A folder with the tiny model and its tokenizer, which has a chat template."""
    folder = tmp_path_factory.mktemp("chat-model")
    tokenizer = scratch.byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    base_models.tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def own_tasks(tmp_path):
    folder = tmp_path / "own-tasks"
    folder.mkdir()
    rows = [{"question": f"{i} + {i} is", "choices": [str(2 * i), str(2 * i + 1)], "gold": 0} for i in range(5)]
    (folder / "adds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "adds.yaml").write_text(ADDS)
    (folder / "says.yaml").write_text(SAYS)
    (folder / "scoring.py").write_text(SCORING)
    return folder


@pytest.fixture
def own(smoke, tmp_path):
    """A configuration of task=custom on 120 sums."""

    def make(*overrides, rows=None):
        path = write(tmp_path / "rows.jsonl", sums(120) if rows is None else rows)
        return smoke("task=custom", f"task.train_file={path}", *overrides)

    return make


def split_of(config):
    return custom.divided(config.task)


def test_the_division_depends_on_the_rows_alone(own):
    rows = sums(400)
    first = split_of(own("task.heldout_rows=1000", rows=rows))
    again = split_of(own("task.heldout_rows=1000", "seed=7", rows=rows[::-1]))
    assert first.reported == again.reported
    assert first.selection == again.selection
    parts = [{json.dumps(row) for row in part} for part in (first.train, first.reported, first.selection)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 400
    assert 25 < len(first.reported) < 55  # 10 % of 400
    assert 8 < len(first.selection) < 34  # 5 % of 400
    few = split_of(own("task.heldout_rows=3", rows=rows))
    assert few.reported == first.reported[:3]
    assert few.train == first.train
    assert few.left_out["held out beyond task.heldout_rows"] > 20


def test_rows_that_are_cut_or_stand_more_than_once_are_counted(own, chat_model, capsys):
    rows = [prompts.pair(f"what is {i}?", "a number " * (100 if i < 20 else 1)) for i in range(80)]
    config = own("task.max_length=64", "task.drop_overlap=false", rows=[*rows, *rows[:40]])
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    counts = custom.TASK.prepare(config, tokenizer).notes["rows"]
    assert 0 < counts["train_at_max_length"] <= 40
    assert 20 < counts["train_repeated"] <= 40
    text = capsys.readouterr().err
    assert f"custom: {counts['train_at_max_length']} of the rows that train reach task.max_length" in text
    assert f"custom: {counts['train_repeated']} of the rows that train repeat another row" in text


TOO_LONG = "Rows that are too long are counted on the screen and in the record; a run that loses most rows is refused."


@pytest.mark.promise(TOO_LONG)
def test_rows_that_are_too_long_are_counted_and_most_of_them_are_refused(own, capsys, tmp_path):
    tokenizer = byte_level()

    def prepared(long, long_held_out=0):
        """Questions that fill `task.max_length`, in `long` of 100 rows and in some of 10 held-out rows."""
        rows, held_out = (
            [prompts.pair(f"{part} {i} " + "q" * (2000 if i < most else 1), f"answer {i}") for i in range(count)]
            for part, count, most in (("train", 100, long), ("other", 10, long_held_out))
        )
        path = write(tmp_path / "held-out.jsonl", held_out)
        settings = ("task.heldout_rows=100", "task.selection_share=0.2", "task.drop_overlap=false")
        config = own(f"task.heldout_file={path}", *settings, rows=rows)
        return tasks.get("custom").prepare(config, tokenizer).notes["rows"]

    assert prepared(0)["left_out"] == {}
    assert "left out" not in capsys.readouterr().err
    some = prepared(20, 4)
    left_out = some["left_out"]
    assert left_out.keys() == {"without an answer within task.max_length", "held out, longer than task.max_length"}
    assert some["train"] + some["selection"] + some["reported"] + sum(left_out.values()) == 110
    assert some["reported"] == 6
    text = capsys.readouterr().err
    for reason, count in left_out.items():
        assert f"{count} {reason}" in text
    with pytest.raises(
        ConfigError, match=r"task\.max_length: only \d+ of \d+ rows have an answer .*; at least 50% must"
    ):
        prepared(60)
    with pytest.raises(ConfigError, match=r"task\.max_length: none of 10 held-out rows has at most \d+ tokens"):
        prepared(0, 10)


SWAPPED = "A file or a folder of a user that changes between the hash in the key and the training is refused."


@pytest.mark.promise(SWAPPED)
@pytest.mark.parametrize("setting", ["task.train_file", "task.heldout_file", "model", "task.benchmark_path"])
def test_what_is_swapped_before_the_training_is_refused(
    setting, own, chat_model, own_tasks, tmp_path, monkeypatch, counted
):
    folder = shutil.copytree(chat_model, tmp_path / "model")
    held_out = write(tmp_path / "held-out.jsonl", sums(30, seed=1))
    config = own(
        f"model={folder}",
        f"task.heldout_file={held_out}",
        "task.benchmarks=[adds]",
        f"task.benchmark_path={own_tasks}",
        "method=lora",
    )
    swapped = {
        "task.train_file": tmp_path / "rows.jsonl",
        "task.heldout_file": tmp_path / "held-out.jsonl",
        "model": folder / "model.safetensors",
        "task.benchmark_path": own_tasks / "adds.jsonl",
    }[setting]
    content = swapped.read_bytes()
    # One byte differs: of a word, of a question, of a weight.
    other = content[:-2] + b"\1" + content[-1:] if setting == "model" else content.replace(b" is", b" iz", 1)
    assert len(other) == len(content)
    assert other != content
    swap(monkeypatch, swapped, other)
    with pytest.raises(ConfigError, match=f"^{setting}: .* has changed since this run began.*give the command again"):
        runner.run(config)
    assert not list((tmp_path / "results" / "runs").glob("*.json"))
    counted(1, "swapped files")


@pytest.mark.promise(SWAPPED)
@pytest.mark.parametrize(("module", "setting"), [(tasks, "task.module"), (methods, "method.module")])
def test_a_rank_that_loaded_other_code_is_refused(module, setting, smoke, monkeypatch):
    """Each rank that a run starts loads the Python files of the user again."""
    config = smoke()
    monkeypatch.setattr(module, "module_hash", lambda name: "of the key")
    record = runner.record_of(config, identity_of(config))
    runner.check_same(config, record, "tiny")
    monkeypatch.setattr(module, "module_hash", lambda name: "of another file")
    with pytest.raises(ConfigError, match=f"^{setting}: .* has changed since this run began"):
        runner.check_same(config, record, "tiny")


def test_equal_rows_are_named_where_no_row_is_left_to_measure(own):
    with pytest.raises(ConfigError, match=r"of 60 rows \(1 different\) of .*, none is left to measure"):
        split_of(own(rows=[prompts.pair("q", "a")] * 60))


def test_a_file_of_its_own_is_reported_whole(own, tmp_path):
    held_out = sums(30, seed=1)
    path = write(tmp_path / "heldout.jsonl", held_out)
    split = split_of(own(f"task.heldout_file={path}", "task.heldout_rows=100"))
    assert sorted(map(json.dumps, split.reported)) == sorted(map(json.dumps, held_out))
    assert len(split.train) + len(split.selection) == 120


def test_rows_that_repeat_what_is_measured_do_not_train(own, tmp_path, capsys):
    """The words that all rows share, such as a system message, are no repetition."""
    rows, held_out = sums(60), sums(40, seed=1)
    held_out = [row for row in held_out if row not in rows]
    path = write(tmp_path / "heldout.jsonl", held_out)
    leaked = (f"task.heldout_file={path}", "task.heldout_rows=100")
    rows += held_out[:5]
    config = own(*leaked, rows=rows)
    prepared = tasks.get("custom").prepare(config, byte_level())
    dropped = prepared.notes["rows"]["left_out"]["repeat what is measured"]
    assert dropped in range(1, 6)
    assert f"left out: {dropped} repeat what is measured" in capsys.readouterr().err
    text = byte_level().decode(prepared.train.ids.tolist())
    for messages in held_out:
        assert messages[1]["content"] + "\n\nAssistant:\n" + messages[2]["content"] not in text
    kept = tasks.get("custom").prepare(own(*leaked, "task.drop_overlap=false", rows=rows), byte_level())
    counts, text = kept.notes["rows"], capsys.readouterr().err
    assert (counts["train_overlapping"], counts["left_out"]) == (dropped, {})
    assert counts["train"] == prepared.notes["rows"]["train"] + dropped == len(kept.train)
    assert f"custom: {dropped} of the rows that train repeat what is measured, and train too\n" in text
    assert "left out" not in text


def test_a_long_passage_is_a_repetition_and_a_frame_is_not():
    frame = "please put the following ticket of a customer into one of the five classes that we have"
    passage = "the parcel came on monday but two of the seven cups were broken and one is missing"
    texts = [f"{frame} number {i}" for i in range(20)]
    measured = [f"{frame} {passage}", f"{frame} number x"]
    assert not any(overlap.repetitions(texts, measured))
    assert overlap.repetitions([*texts, f"well {passage}", f"{frame} number x"], measured)[-2:] == [True, True]


@pytest.mark.parametrize(
    ("text", "measured", "repeats"),
    [
        ("\N{GRINNING FACE}\nhappy", "\N{PARTY POPPER}\nhappy", False),  # an emoji is a word
        ("\N{GRINNING FACE} Happy!", "\N{GRINNING FACE}\nhappy", True),
        ("की\nहाँ", "का\nहाँ", False),  # words that differ in a vowel sign
        ("आज यह नियम सभी ग्राहकों पर लागू होता है मगर", "कल यह नियम सभी ग्राहकों पर लागू होता है लेकिन", False),
        ("a+b", "a-b", False),
        ("don't, do", "Don\N{RIGHT SINGLE QUOTATION MARK}t do", True),
    ],
)
def test_words_are_those_of_any_script(text, measured, repeats):
    assert overlap.repetitions([text], [measured]) == [repeats]


def test_what_is_not_read_is_said_and_recorded(own, tmp_path, capsys):
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"ticket {i} of the day", "label": 0, "id": i}) for i in range(60)))
    prepared = tasks.get("custom").prepare(own(f"task.train_file={path}"), byte_level())
    assert "custom: task.train_file: columns that are not read: label, id\n" in capsys.readouterr().err
    assert prepared.notes["rows"]["columns_not_read"] == {"task.train_file": ["label", "id"]}


def test_the_loss_counts_on_answers_in_the_models_own_template(own, chat_model):
    config = own(f"model={chat_model}")
    tokenizer = base_models.tokenizer_of_run(config)
    prepared = tasks.get("custom").prepare(config, tokenizer)
    row = prepared.train[0]
    counted = tokenizer.decode(row["input_ids"][row["labels"] != IGNORED])
    assert counted.startswith("It is ")
    assert counted.endswith(".</s>")
    assert f"<|system|>{SYSTEM}</s><|user|>What is" in tokenizer.decode(row["input_ids"])
    assert prepared.notes["prompt"].startswith("template-1-")
    assert "prompt" not in prepared.notes["rows"]
    plain = tasks.get("custom").prepare(own(), byte_level())
    assert plain.notes["prompt"] == "plain-1"


@pytest.mark.promise(
    "A run on a user's own rows, model and lm-eval tasks ends with every metric that its settings declare, and is "
    "scored again to the same bits."
)
def test_own_rows_model_and_benchmarks(own, chat_model, own_tasks, tmp_path, capsys, counted):
    config = own(
        f"model={chat_model}",
        "task.match=contains",
        "task.new_tokens=4",
        "task.benchmarks=[adds, adds:acc_norm, says:length_error]",
        f"task.benchmark_path={own_tasks}",
        "task.benchmark_limit=4",
        "method=mora",
        "training.steps=2",
    )
    record = runner.run(config)
    assert record.status == "finished", record.error
    final = record.metrics["final"]
    task = tasks.get("custom")
    compared = [metric.name for metric in task.metrics_of(config.task)]
    assert compared == [
        *("heldout_loss", "heldout_bits_per_byte", "heldout_perplexity", "answer_match"),
        *("adds", "adds:acc_norm", "says:length_error", "general_perplexity"),
    ]
    assert {*compared, "selection_loss"} <= final.keys()
    assert final["adds_questions"] == 4
    assert final["adds"] in (0, 25, 50, 75, 100)
    assert 0 <= final["says:length_error:first"] <= 4  # of `length_error`, a task's own function, in characters
    assert {"says:exact_match:first", "says:exact_match:number", "adds:acc"} <= final.keys()
    assert final["heldout_loss"] < final["heldout_loss_before"]
    assert final["heldout_loss"] != final["selection_loss"]
    rows = record.provenance["rows"]
    assert rows["train"] + rows["reported"] + rows["selection"] + sum(rows["left_out"].values()) == 120
    assert rows["train_tokens"] > rows["train_tokens_counted"] > 0
    printed = capsys.readouterr().err
    assert f"custom: {rows['train']} rows of answers train ({rows['train_tokens']:,} tokens" in printed
    assert record.provenance["benchmarks"]["metrics"] == {
        "adds": "acc",
        "adds:acc_norm": "acc_norm",
        "says:length_error": "length_error",
    }
    store = Store(config.paths.results)
    path = store.path(record.key)
    assert call(str(path)) == 0
    assert capsys.readouterr().out.endswith("\nequal\n")

    # The same model on another benchmark, added to the record.
    asked = ("--benchmarks", "says:exact_match:number", "--benchmark-path", str(own_tasks), "--limit", "3")
    before = path.read_bytes()
    assert call(str(path), *asked) == 0
    assert path.read_bytes() == before
    capsys.readouterr()
    shutil.copytree(own_tasks, tmp_path / "other-tasks")
    for file in (tmp_path / "other-tasks").glob("*.yaml"):
        file.write_text(file.read_text().replace("task: ", "task: other_"))
    asked = ("--benchmarks", "other_adds", "--benchmark-path", str(tmp_path / "other-tasks"), "--limit", "3", "--add")
    assert call(str(path), *asked) == 0
    assert "other_adds_questions  3" in capsys.readouterr().out
    longer = store.read(record.key)
    assert longer.metrics["final"].keys() - final.keys() == {
        *("other_adds", "other_adds_questions", "other_adds:acc", "other_adds:acc_norm")
    }
    assert {name: longer.metrics["final"][name] for name in final} == final
    (note,) = longer.provenance["added"]
    assert note["limit"] == 3
    assert call(str(path), *asked) == 2
    assert "the record holds other_adds already" in capsys.readouterr().err
    assert call(record.key, "--results", config.paths.results) == 0
    counted(len(compared), "metrics")


def call(*arguments):
    return script.guarded(lambda: evaluate.main(list(arguments)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("key_loss", "the record holds key_loss already, and a score is never replaced"),
        ("char_accuracy", "char_accuracy is the name of a metric that task=uuid measures in its own way"),
    ],
)
def test_scores_are_added_only_under_names_of_their_own(name, message):
    record = Record("0" * 16, "a run", "finished", {"task": "uuid"}, {}, {}, {"final": {"key_loss": 1.0}, "curve": []})
    load.check_addable(record, ["gsm8k", "char_accuracy:acc"])
    with pytest.raises(ConfigError, match=message):
        load.check_addable(record, ["gsm8k", name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0" * 16, "--add"), "--add needs --benchmarks"),
        (("0" * 16, "--shots", "0"), "--shots needs --benchmarks"),
        (
            ("0" * 16, "--limit", "0", "--benchmarks", "a"),
            "argument --limit: must be an integer of at least 1, got '0'",
        ),
        (
            ("0" * 16, "--benchmarks", "a,a"),
            "argument --benchmarks: must be different names of lm-eval's tasks, such as",
        ),
        (("elsewhere/record.json",), "is not in a folder runs/ of a results folder"),
    ],
)
def test_a_wrong_argument_of_evaluate_is_one_line(arguments, message, capsys):
    assert code_of(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def code_of(*arguments):
    try:
        return call(*arguments)
    except SystemExit as end:  # argparse
        return end.code


def test_texts_train_in_full_windows(smoke, tmp_path):
    texts = [f"The story number {i} is about a cat that has {i} kittens. " * 4 for i in range(60)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = smoke("task=custom", f"task.train_file={path}", "task.heldout_share=0.2", "task.max_length=64")
    record = runner.run(config.replace(training=config.training.replace(steps=2)))
    assert record.status == "finished", record.error
    assert record.provenance["rows"]["kind"] == "texts"
    assert "prompt" not in record.provenance
    assert record.metrics["final"]["heldout_bits_per_byte"] > 0
    with pytest.raises(ConfigError, match=r"task\.match must be null for texts"):
        tasks.get("custom").prepare(smoke("task=custom", f"task.train_file={path}", "task.match=exact"), byte_level())


def key(config):
    return key_of(identity_of(config))


def test_the_key_covers_what_is_in_the_files(own, own_tasks, tmp_path):
    held_out = write(tmp_path / "heldout.jsonl", sums(20, seed=1))
    settings = (f"task.heldout_file={held_out}", "task.benchmarks=[adds]")
    first = key(own(*settings, f"task.benchmark_path={own_tasks}"))
    moved = tmp_path / "moved"
    shutil.copytree(own_tasks, moved)
    (moved / "__pycache__").mkdir()
    (moved / "__pycache__" / "scoring.pyc").write_text("x")
    config = own(*settings, f"task.benchmark_path={moved}")
    assert key(config) == first
    keys = [first]
    for change in (
        lambda: (moved / "adds.yaml").write_text(ADDS.replace("{{question}}", "Q: {{question}}")),
        lambda: (moved / "adds.jsonl").write_text('{"question": "x", "choices": ["a", "b"], "gold": 1}\n'),
        lambda: (moved / "scoring.py").write_text(SCORING + "\n"),
        lambda: write(tmp_path / "heldout.jsonl", sums(21, seed=1)),
        lambda: write(tmp_path / "rows.jsonl", sums(121)),
    ):
        change()
        keys.append(key(config))
    assert len(set(keys)) == len(keys)
    # Data files outside the folder count too.
    (moved / "adds.yaml").write_text(ADDS.replace("adds.jsonl", str(tmp_path / "outside.jsonl")))
    keys = []
    for text in ("one", "two"):
        (tmp_path / "outside.jsonl").write_text(text)
        keys.append(key(config))
    assert keys[0] != keys[1]


def test_the_keys_of_the_committed_records_are_those_of_their_settings(monkeypatch):
    """Settings that a task does not have are no part of the identity: new settings change no key."""
    from experiments.spec.parse import from_record

    from ..conftest import ROOT

    records, _ = read_records(ROOT / "results")
    assert records
    for record in records:
        alone = {"device": "auto", "processes": 1, "nodes": 1, "sharding": "none"}
        config = from_record(record.config | {"hardware": record.config["hardware"] | alone})
        config = config.replace(hardware=config.hardware.replace(precision=record.provenance["precision"]))
        assert key(config) == record.key, record.name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.train_file=null"], "task.train_file is missing; task=custom trains on your rows"),
        (["task.heldout_share=0.96"], "task.heldout_share and task.selection_share must be less than 1 together"),
        (["task.match=exact", "task.format=text"], "task.match must be null for task.format=text"),
        (["task.benchmark_path=."], "task.benchmark_path is given, and task.benchmarks names no task"),
        (["task.benchmark_limit=5"], "task.benchmark_limit is given, and task.benchmarks names no task"),
        (["task.benchmark_shots=0"], "task.benchmark_shots is given, and task.benchmarks names no task"),
        (["task.benchmark_template=true"], "task.benchmark_template is given, and task.benchmarks names no task"),
        (["task.benchmarks=[heldout_loss]"], "task.benchmarks: heldout_loss is the name of another number"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_a_file_is_read(own, overrides, message, monkeypatch):
    monkeypatch.setattr(custom.userfile, "read", lambda *_: pytest.fail("the file was read"))
    with pytest.raises(ConfigError, match=message):
        runner.run(own(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.prompt=template"], "the model has no chat template; allowed: plain"),
        (["task.prompt=raw"], "line 1: task.prompt=raw joins one question and one answer"),
        (["task.format=completion"], "line 1: needs the columns instruction or query or prompt or question"),
        (["task.max_length=20"], "task.max_length: no"),
        (["task.selection_share=0.00001"], "task.selection_share: of 120 rows of .* none is left to select the learn"),
        (["task.match=exact", "task.questions=0"], "task.match: no held-out answer is generated"),
        (["task.benchmarks=[adds]", "task.benchmark_template=true"], "task.benchmark_template must be false"),
        (
            ["task.benchmarks=[says]"],
            "the first metric of says is length_error, which is no share .* says:length_error",
        ),
        (["task.benchmarks=[adds:f1]"], "adds has no metric 'f1'; allowed: acc, acc_norm"),
        (["task.benchmarks=[says:exact_match:last]"], "says has no filter 'last'; allowed: first, number"),
        (["task.heldout_file=nowhere.jsonl"], "task.heldout_file must be a file, or owner/name of a data set"),
        (["task.benchmarks=[adds,adds]"], "task.benchmarks must be a list of different tasks of lm-eval"),
        (["task.heldout_share=1"], r"task.heldout_share must be a number in \(0, 1\)"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(own, own_tasks, overrides, message):
    where = [f"task.benchmark_path={own_tasks}"] if "benchmarks" in overrides[0] else []

    def prepare():
        config = own(*overrides, *where)
        identity_of(config)
        tasks.get("custom").prepare(config, byte_level())

    with pytest.raises(ConfigError, match=message) as error:
        prepare()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "adds.yaml").write_text("task: [adds"), "adds.yaml cannot be read: while parsing"),
        (lambda folder: (folder / "adds.jsonl").unlink(), "task.benchmarks: adds cannot be loaded: Unable to find"),
        (lambda folder: [p.unlink() for p in folder.glob("*.yaml")], "holds no YAML file"),
        (lambda folder: shutil.rmtree(folder), "task.benchmark_path must be a folder"),
    ],
)
def test_a_wrong_folder_of_benchmarks_is_one_line(own_tasks, change, message):
    change(own_tasks)
    with pytest.raises(ConfigError, match=message) as error:
        (benchmarks.folder_fingerprint(str(own_tasks)), benchmarks.load(["adds"], str(own_tasks)))
    assert "\n" not in str(error.value)


def test_a_metric_of_ones_own_says_its_direction(own_tasks):
    says = own_tasks / "says.yaml"
    says.write_text(SAYS.replace("higher_is_better: false", "higher_is_better: true"))
    with pytest.raises(ConfigError, match="says:length_error: the task says that higher is better; here lower is"):
        benchmarks.load(["says:length_error"], str(own_tasks))


def test_answers_without_a_number_are_refused(own):
    rows = [prompts.pair(f"Say {i}.", "No.") for i in range(120)]
    with pytest.raises(ConfigError, match=r"task\.match=number: 4 of 4 held-out answers have no number"):
        tasks.get("custom").prepare(own("task.match=number", rows=rows), byte_level())


def test_an_unknown_benchmark_is_named_with_near_names(own_tasks, monkeypatch):
    """lm-eval's own tasks are not listed here, which takes twenty seconds."""
    from lm_eval import tasks as lm_eval_tasks

    whole = lm_eval_tasks.TaskManager
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", lambda **kw: whole(**kw | {"include_defaults": False}))
    with pytest.raises(ConfigError, match=r"lm-eval has no task 'addz', and .* has none; near names: adds"):
        benchmarks.load(["addz"], str(own_tasks))


def test_the_name_of_a_benchmark_says_the_unit_and_the_direction():
    task = tasks.get("custom")
    assert task.metric("gsm8k") == Metric("gsm8k", "gsm8k", questions="benchmark_limit")
    perplexity = task.metric("wikitext:word_perplexity")
    assert (perplexity.unit, perplexity.higher_is_better) == ("", False)
    assert task.metric("arc_easy:acc_norm").unit == "%"
    assert task.metric("heldout_loss") in task.metrics
    for other in ("a:b:c:d", "loss"):
        with pytest.raises(KeyError):
            task.metric(other)


@pytest.mark.parametrize("task", ["instruct", "biomed", "pretrain"])
def test_the_other_tasks_measure_a_file_of_the_user(task, smoke, tmp_path):
    texts = [
        f"My own held-out document has the number {i}, and says so in eleven more words than that." for i in range(6)
    ]
    path = tmp_path / "heldout.jsonl"
    row = (lambda text: {"instruction": "Say it.", "output": text}) if task == "instruct" else (lambda t: {"text": t})
    path.write_text("".join(json.dumps(row(text)) + "\n" for text in texts))
    train = tmp_path / "train.jsonl"
    others = [f"Another document with {i} other words in it: " + "and more " * (i + 20) for i in range(60)]
    train.write_text("".join(json.dumps(row(text)) + "\n" for text in [*texts[:2], *others]))
    settings = (f"task={task}", f"task.train_file={train}")
    config = smoke(*settings, f"task.heldout_file={path}", "task.heldout_rows=5")
    prepared = tasks.get(task).prepare(config, byte_level())
    text = byte_level().decode(prepared.evaluation.rows.ids.tolist())
    assert all(document in text for document in texts[:5])
    assert texts[5] not in text
    assert prepared.notes["overlap"]["dropped"] == 2
    assert "task.heldout_file" in prepared.notes["sources"]
    assert key(config) != key(smoke(*settings, "task.heldout_rows=5"))


def test_the_other_tasks_have_the_published_prompts_only(smoke):
    with pytest.raises(
        ConfigError, match=r"task\.prompt must be one of alpaca, open-instruct for task=math, got 'plain'"
    ):
        runner.run(smoke("task=math", "task.prompt=plain"))
