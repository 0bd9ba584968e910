"""Any model: what is there is adapted, the run says what, and the dry run says the same."""

import json
import math
import subprocess
import sys

import pytest
import torch

from experiments import runner
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.estimate import dry_run, needs, trace
from experiments.identity import identity_of, key_of
from experiments.spec import shapes
from experiments.store.records import Store
from experiments.train import base_models, checkpoints, cost
from experiments.train.placement import Placement
from scripts import export_adapter

from .. import families
from ..conftest import ROOT
from ..processes import interrupt_at_step

SHORT = ("training.steps=4", "training.warmup_steps=1", "training.checkpoint_every=2", "training.evaluate_every=4")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a family, written once."""
    folders = {}

    def folder(family):
        if family not in folders:
            folders[family] = families.write(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return folder


def of_lora(family: str, rank: int) -> dict[str, dict[str, int]]:
    """What a LoRA on all linear layers trains, by formula."""
    kinds = families.LAYERS[family]
    return {kind: {"layers": n, "parameters": n * (k + d) * rank} for kind, (n, k, d) in kinds.items()}


def of_mora(family: str, rank: int) -> dict[str, dict[str, int]]:
    kinds = families.LAYERS[family]
    return {kind: {"layers": n, "parameters": n * math.isqrt((k + d) * rank) ** 2} for kind, (n, k, d) in kinds.items()}


@pytest.mark.promise("The record of a run says which layers were adapted, and the dry run says the same numbers.")
@pytest.mark.parametrize("family", families.LAYERS)
def test_a_run_adapts_what_is_there_and_says_so(family, folder_of, smoke, tmp_path, capsys):
    arguments = (f"model={folder_of(family)}", "method=mora", "method.rank=4", "method.operator=sharing", *SHORT)
    record = runner.run(smoke(*arguments))
    assert record.status == "finished"
    assert record.provenance["adapted"] == of_mora(family, 4)
    notes = [line for line in capsys.readouterr().err.splitlines() if "has no linear layer" in line]
    assert len(notes) == (family != "qwen3")
    assert all(", ".join(families.LAYERS[family]) in line for line in notes)
    assert [f"note: {note}" for note in record.provenance.get("targets", [])] == notes
    estimate = needs.estimate(smoke(*arguments, "dry_run=true"))
    assert estimate.adapted == record.provenance["adapted"]
    assert (estimate.trainable, estimate.total) == tuple(
        record.cost[name] for name in ("trainable_parameters", "total_parameters")
    )
    assert not any(map(math.isnan, (*estimate.flops, *estimate.peak)))
    # The exported model is loaded by stock libraries, and computes what the run's own model computes.
    key, out = record.key, tmp_path / "out"
    assert script.guarded(lambda: export_adapter.main([key, str(out), "--results", str(tmp_path / "results")])) == 0
    assert_same_logits(out, record, tmp_path)


def test_the_page_of_a_dry_run_shows_the_layers_beside_those_of_lora(folder_of, smoke):
    arguments = (f"model={folder_of('phi3')}", "method=mora", "method.rank=4", "dry_run=true")
    page = [line.split() for line in dry_run.table(smoke(*arguments)).splitlines()]
    for kind, counts in of_lora("phi3", 4).items():
        assert [kind, "2", f"{of_mora('phi3', 4)[kind]['parameters']:,}", f"{counts['parameters']:,}"] in page
    assert any(line[:6] == ["note:", "the", "model", "has", "no", "linear"] for line in page)


def assert_same_logits(out, record, tmp_path):
    from transformers import AutoModelForCausalLM

    from experiments.reuse import load

    ids = torch.arange(3, 43).view(2, 20)
    with torch.inference_mode():
        merged = AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits
        own = load.restore(record, Store(tmp_path / "results"))[0](ids).logits
    torch.testing.assert_close(merged, own, atol=1e-4, rtol=0)


def test_targets_are_names_all_linear_or_an_expression(folder_of, smoke):
    def adapted(targets):
        arguments = (f"model={folder_of('phi3')}", "method=lora", "method.rank=4", f"method.target_modules={targets}")
        return needs.estimate(smoke(*arguments, "dry_run=true")).adapted

    whole = of_lora("phi3", 4)
    assert adapted("all-linear") == whole
    assert adapted("[qkv_proj,o_proj]") == {kind: whole[kind] for kind in ("o_proj", "qkv_proj")}
    assert adapted("'.*\\.1\\.mlp\\..*_proj'") == {
        kind: {"layers": 1, "parameters": whole[kind]["parameters"] // 2} for kind in ("gate_up_proj", "down_proj")
    }
    assert adapted("[lm_head]") == {"lm_head": {"layers": 1, "parameters": (64 + 260) * 4}}
    for targets in ("[q_proj]", "'.*q_proj'", "[qkv_proj,q_proj]"):
        with pytest.raises(ConfigError, match=r"has no linear layer .*q_proj.*; allowed: all-linear, .*qkv_proj"):
            adapted(targets)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has `tie_word_embeddings=True`")
def test_an_adapter_on_the_head_is_saved_and_exported(folder_of, smoke, tmp_path):
    """The head of this model is its embedding too."""
    own = (f"model={folder_of('gpt2')}", "method=mora", "method.rank=4", "method.target_modules=[lm_head]")
    record = runner.run(smoke(*own, *SHORT, "training.learning_rate=0.1"))
    assert record.provenance["adapted"].keys() == {"lm_head"}
    out = tmp_path / "out"
    arguments = [record.key, str(out), "--results", str(tmp_path / "results")]
    assert script.guarded(lambda: export_adapter.main(arguments)) == 0
    assert_same_logits(out, record, tmp_path)


def test_some_layers_of_any_model_train_without_adapters(folder_of, smoke):
    arguments = (f"model={folder_of('gpt_neox')}", "method=fft", "method.target_modules=[dense]", "dry_run=true")
    assert needs.estimate(smoke(*arguments)).adapted == {"dense": {"layers": 2, "parameters": 2 * 64 * 65}}


def test_the_rank_is_checked_against_the_models_own_sizes(folder_of, smoke):
    """Queries of Qwen3 are wider than the model: the sizes of a LLaMA with these numbers would give 32."""
    arguments = [f"model={folder_of('qwen3')}", "method=lora", "method.target_modules=[q_proj,o_proj]", "dry_run=true"]
    assert needs.estimate(smoke(*arguments, "method.rank=42")).trainable == 2 * 2 * (64 + 128) * 42
    with pytest.raises(ConfigError, match=r"too large for q_proj .* allowed: at most 42,"):
        needs.estimate(smoke(*arguments, "method.rank=43"))


@pytest.mark.parametrize("family", ["mixtral", "jamba"])
def test_experts_are_not_adapted_and_the_run_says_so(family, folder_of, smoke):
    estimate = needs.estimate(smoke(f"model={folder_of(family)}", "method=mora", "method.rank=4", "dry_run=true"))
    (note,) = (note for note in estimate.notes if "experts" in note and "no adapter changes" in note)
    assert "experts.gate_up_proj, experts.down_proj" in note
    assert set(estimate.adapted) >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert math.isnan(estimate.flops[0])
    assert any("how many tokens each expert gets" in note for note in estimate.notes)


@pytest.mark.parametrize("method", ["lora", "mora"])
def test_experts_are_adapted_where_the_run_asks_for_it(method, folder_of, smoke):
    own = (f"model={folder_of('mixtral')}", f"method={method}", "method.rank=4", "method.dropout=0", "dry_run=true")
    config = smoke(*own, "+method.peft.target_parameters=[experts.gate_up_proj]")
    adapted = trace.adapted(config, Placement("cpu", "fp32"))
    kinds = cost.adapted_kinds(adapted.model)
    assert kinds.keys() == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj"}
    a_layer = 4 * {"lora": (64 + 256) * 4, "mora": math.isqrt((64 + 256) * 4) ** 2}[method]  # of four experts
    assert kinds["gate_up_proj"] == {"layers": 2, "parameters": 2 * a_layer}
    (note,) = (note for note in adapted.notes if "no adapter changes" in note)
    assert "no adapter changes experts.down_proj (" in note


@pytest.mark.parametrize("method", ["lora", "mora"])
def test_in_pretraining_adapted_experts_are_frozen(method, folder_of, smoke):
    own = (f"model={folder_of('mixtral')}", f"method={method}", "method.rank=4", "method.dropout=0", "dry_run=true")
    experts = "+method.peft.target_parameters=[experts.gate_up_proj]"
    model = trace.adapted(smoke(*own, "method.train_rest=true", experts), Placement("cpu", "fp32")).model
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name in trains if name.endswith("experts.base_layer.gate_up_proj")]
    assert [name for name in trains if name.endswith(".down_proj")]
    assert [name for name in trains if name.endswith("gate.weight")]


def test_layers_whose_weights_are_read_without_a_call_are_not_adapted(folder_of, smoke):
    own = (f"model={folder_of('mamba')}", "method.rank=4", "dry_run=true")
    for method in ("lora", "mora"):
        adapted = trace.adapted(smoke(*own, f"method={method}"), Placement("cpu", "fp32"))
        assert cost.adapted_kinds(adapted.model).keys() == {"in_proj", "x_proj"}
    with pytest.raises(ConfigError, match="reads the weights of dt_proj without calling these layers"):
        needs.estimate(smoke(*own, "method=lora", "method.target_modules=[dt_proj]"))


def test_a_finished_cell_and_a_known_folder_need_no_torch(folder_of, smoke, tmp_path):
    config = smoke(f"model={folder_of('phi3')}", "method=lora", "method.rank=4", *SHORT, f"paths.cache={tmp_path}")
    shapes._built.clear()
    assert shapes.at_hand(config.model, tmp_path) is None
    runner.run(config)
    shapes._built.clear()
    assert shapes.at_hand(config.model, tmp_path).linears["model.layers.0.self_attn.qkv_proj"] == (64, 128)
    (kept,) = (tmp_path / "shapes").iterdir()
    content = kept.read_text()
    assert "128" in content
    kept.write_text(content.replace("128", "182"))
    assert shapes.at_hand(config.model, tmp_path) is None
    kept.write_text(content)
    results = config.paths.results
    own = [f"model={config.model}", "scale=smoke", "logger=none", "hardware=cpu", f"paths.results={results}"]
    own += [f"paths.cache={tmp_path}", "method=lora", *SHORT]
    probe = (
        "import sys; sys.argv = ['run.py', *sys.argv[1:]]; import run; code = run.main();"
        "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    for arguments, code in ((["method.rank=4"], 0), (["method.rank=99"], 2)):
        command = [sys.executable, "-c", probe, *own, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert "too large for o_proj" in done.stderr


def with_token(special):
    def change(tokenizer):
        tokenizer.add_tokens(["<new>"], special_tokens=special)

    return change


def without(*names):
    def change(tokenizer):
        for name in names:
            setattr(tokenizer, name, None)

    return change


@pytest.mark.promise("A model, a tokenizer and data that do not fit together are refused before the training.")
@pytest.mark.parametrize(
    ("family", "settings", "change", "arguments", "words"),
    [
        ("gpt2", {}, with_token(False), ["task=uuid"], "has 260 rows, and the tokenizer gives '<new>' the id 260"),
        (
            "gpt2",
            {"n_positions": 64},
            None,
            ["task=uuid"],
            "at most 64 tokens, and task=uuid has sequences of up to 75",
        ),
        ("gpt2", {"n_positions": 128}, None, ["task=instruct"], "allowed: task.max_length up to 128"),
        (
            "gpt2",
            {"n_positions": 256},
            None,
            ["task=instruct", "task.max_length=256"],
            "at most 256 tokens, and a row of task=instruct has 5",
        ),
        ("gpt2", {}, without("eos_token", "pad_token"), ["task=instruct"], "has no end token"),
        ("gpt2", {}, without("eos_token"), ["task=pretrain"], "has no end token"),
    ],
)
def test_what_does_not_fit_is_one_line(family, settings, change, arguments, words, smoke, tmp_path):
    folder = families.write(family, tmp_path / "model", change or (lambda tokenizer: None), **settings)
    config = smoke(f"model={folder}", "method=lora", "method.rank=4", *arguments)
    with pytest.raises(ConfigError) as caught:
        runner.run(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "results" / "runs").glob("*.json"))


def test_a_special_token_without_a_row_hurts_only_where_it_occurs(smoke, tmp_path):
    folder = families.write("gpt2", tmp_path / "model", with_token(True))
    own = (f"model={folder}", "method=lora", "method.rank=4", *SHORT)
    assert runner.run(smoke(*own)).status == "finished"
    rows = [{"instruction": "Say <new>.", "output": "<new>"}] * 8
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="gives '<new>' the id 260"):
        runner.run(smoke(*own, "task=instruct", f"task.train_file={tmp_path / 'rows.jsonl'}"))


def test_a_tokenizer_without_padding_or_end_memorises_uuids(smoke, tmp_path):
    folder = families.write("gpt2", tmp_path / "model", without("bos_token", "eos_token", "pad_token"))
    assert runner.run(smoke(f"model={folder}", "method=lora", "method.rank=4", *SHORT)).status == "finished"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", ["uuid", "instruct"])
@pytest.mark.parametrize("method", ["mora", "lora", "fft"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_runs_resumes_and_is_exported(family, method, task, folder_of, smoke, tmp_path, monkeypatch):
    own = [f"model={folder_of(family)}", f"method={method}", f"task={task}", *SHORT]
    own += ["method.rank=4"] if method != "fft" else []
    config = smoke(*own)
    estimate = needs.estimate(smoke(*own, "dry_run=true"))
    interrupt_at_step(3, config, monkeypatch)
    store = Store(config.paths.results)
    assert checkpoints.by_step(store.checkpoints(key_of(identity_of(config))))
    record = runner.run(config)
    assert record.status == "finished"
    assert record.provenance.get("adapted", {}) == estimate.adapted
    assert (estimate.trainable, estimate.total) == tuple(
        record.cost[name] for name in ("trainable_parameters", "total_parameters")
    )
    out = tmp_path / "out"
    arguments = [record.key, str(out), "--results", config.paths.results]
    assert script.guarded(lambda: export_adapter.main(arguments)) == 0
    assert_same_logits(out, record, tmp_path)
    base_models.load(str(out), tmp_path, torch.float32)  # the export is a base model again
