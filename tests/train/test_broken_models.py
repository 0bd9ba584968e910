"""Broken base models and saved models: every script prints one line, and nothing is half-written."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel

from experiments.cli import script
from experiments.errors import ConfigError
from experiments.identity import identity_of, key_of
from experiments.spec import skeletons
from experiments.train import base_models, scratch
from scripts import evaluate, export_adapter

from ..mora.tuner.test_broken import Bomb
from ..processes import interrupt_at_step

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def truncate(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def tensors(change):
    def act(folder):
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return act


def settings(file, **changes):
    def act(folder):
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))

    return act


BROKEN = {
    "truncated": (truncate, "cannot be loaded"),
    "nan": (tensors(lambda t: t[min(t)].fill_(torch.nan)), "holds NaN or infinity"),
    "missing": (tensors(lambda t: t.pop(min(t))), "does not hold the adapter of this model"),
    "surplus": (tensors(lambda t: t.update(more=torch.ones(1))), "does not hold the adapter of this model"),
    "shape": (tensors(lambda t: t.update({min(t): torch.ones(2, 2)})), "size mismatch"),
    "no json": (lambda f: (f / CONFIG).write_text("{"), "cannot be loaded"),
    "no object": (lambda f: (f / CONFIG).write_text("[1]"), "adapter_config.json holds no settings"),
    "no config": (lambda f: (f / CONFIG).unlink(), "cannot be loaded"),
    "another kind": (settings(CONFIG, peft_type="LORA"), "peft_type is 'LORA', the run has"),
    "another rank": (settings(CONFIG, r=3), "r is 3, the run has 8"),
    "another operator": (settings(CONFIG, operator="truncation"), "operator is 'truncation', the run has 'sharing'"),
}
UNSEEN_BY_A_COPY = {"missing", "surplus", "shape", "another kind", "another rank", "another operator"}


def refused(main, arguments, capsys, words):
    code = script.guarded(lambda: main([str(a) for a in arguments]))
    err = capsys.readouterr().err
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 1000


@pytest.mark.promise(
    "Every script refuses a saved model that is broken or of another run, in one line, with exit code 2."
)
@pytest.mark.parametrize("name", BROKEN)
def test_scripts_refuse_a_broken_adapter(copied, name, capsys):
    results, key = copied
    folder = results / "models" / key
    breaks, words = BROKEN[name]
    breaks(folder)
    refused(evaluate.main, [key, "--results", results], capsys, words)
    forms = ("merged", "lora") if name in UNSEEN_BY_A_COPY else ("merged", "adapter")
    for form in forms:
        out = results / "out"
        if form == "adapter" and name == "no config":
            words = "has no adapter"
        refused(export_adapter.main, [key, out, "--results", results, "--format", form], capsys, words)
        assert [p.name for p in results.iterdir()].count("out") == 0
        assert not list(results.glob(".out*"))


def test_scripts_refuse_a_broken_whole_model(trained, tmp_path, capsys):
    results, records = trained
    key = records["fft"].key
    (tmp_path / "runs").mkdir()
    shutil.copy(results / "runs" / f"{key}.json", tmp_path / "runs")
    shutil.copytree(results / "models" / key, tmp_path / "models" / key)
    (weights,) = (tmp_path / "models" / key).glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(evaluate.main, [key, "--results", tmp_path], capsys, "cannot be loaded")
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors["lm_head.weight"][0, 0] = torch.inf
    save_file(tensors, weights, metadata={"format": "pt"})
    refused(evaluate.main, [key, "--results", tmp_path], capsys, "lm_head.weight holds NaN or infinity")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model folder without any fault."""
    folder = tmp_path_factory.mktemp("whole")
    base_models.tiny_model().save_pretrained(folder)
    scratch.byte_tokenizer().save_pretrained(folder)
    return folder


def cut(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"x": Bomb(folder / "went-off")}, folder / "pytorch_model.bin")


BROKEN_BASES = {
    "no json": (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), "Unrecognized model"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "recursion"),
    "a text as size": (settings("config.json", hidden_size="a"), "expected int, got str"),
    "no heads": (settings("config.json", num_attention_heads=0), "cannot be loaded"),
    "a negative size": (settings("config.json", hidden_size=-4), "negative dimension"),
    "other sizes": (
        settings("config.json", hidden_size=128),
        "the weights have other shapes than its config.json says",
    ),
    "more layers": (
        settings("config.json", num_hidden_layers=3),
        "lacks weights, which would be random: model.layers.2",
    ),
    "cut off": (cut, "invalid header length"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "added_tokens"),
    "code": (pickled, "Weights only load failed"),
}


@pytest.mark.promise("A model folder that is broken is refused in one line, and no weight of a model is left random.")
@pytest.mark.parametrize("name", BROKEN_BASES)
def test_a_broken_base_model_is_one_line(whole, tmp_path, name, smoke):
    breaks, words = BROKEN_BASES[name]
    folder = shutil.copytree(whole, tmp_path / "model")
    base_models.load(str(folder), tmp_path, torch.float32)
    breaks(folder)
    with pytest.raises(ConfigError, match=r"^model .* (cannot be loaded: |lacks weights)") as caught:
        base_models.load(smoke(f"model={folder}").model, tmp_path, torch.float32)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "went-off").exists()


@pytest.mark.filterwarnings("ignore:.*is_decoder")
def test_an_encoder_is_refused_since_it_would_read_the_answers(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    for is_decoder in (False, True):
        BertLMHeadModel(BertConfig(vocab_size=384, is_decoder=is_decoder, **sizes)).save_pretrained(tmp_path)
        scratch.byte_tokenizer().save_pretrained(tmp_path)
        for build in (
            lambda: skeletons.built(str(tmp_path)),
            lambda: base_models.load(str(tmp_path), tmp_path, torch.float32),
        ):
            if is_decoder:
                build()
            else:
                with pytest.raises(ConfigError, match=r'reads texts in both directions.*"is_decoder": true'):
                    build()


@pytest.mark.promise("Code that comes with a model is never run.")
def test_code_in_a_model_folder_is_not_run(tmp_path):
    base_models.tiny_model().save_pretrained(tmp_path)
    scratch.byte_tokenizer().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'went-off')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        base_models.load(str(tmp_path), tmp_path, torch.float32)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "went-off").exists()


@pytest.mark.promise("Code that comes with a model is never run.")
@pytest.mark.parametrize("setting", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_that_a_model_folder_names_is_not_fetched(whole, tmp_path, setting):
    """transformers would download code for `owner/name`. Without it the model computes as transformers chooses."""
    folder = shutil.copytree(whole, tmp_path / "model")
    settings("config.json", **{setting: "somebody/kernels"})(folder)
    network = base_models.load(str(folder), tmp_path, torch.float32).network
    plain = base_models.load(str(whole), tmp_path, torch.float32).network
    assert network.config._attn_implementation == plain.config._attn_implementation
    skeleton = skeletons.built(str(folder))  # the model without weights, of which the layers are counted
    assert skeleton.config._attn_implementation == plain.config._attn_implementation
    assert skeletons.shape_of(str(folder), tmp_path) == skeletons.shape_of(str(whole), tmp_path)


@pytest.mark.promise("Code that comes with a model is never run.")
def test_a_run_and_its_evaluation_fetch_no_kernel(whole, tmp_path, smoke, capsys):
    """The base model names a kernel, and so does the whole model that the run saved."""
    from experiments import runner

    folder = shutil.copytree(whole, tmp_path / "model")
    settings("config.json", attn_implementation="somebody/kernels")(folder)
    config = smoke(f"model={folder}", "method=fft", f"paths.cache={tmp_path / 'cache'}")
    record = runner.run(config)
    assert record.status == "finished", record.error
    settings("config.json", attn_implementation="somebody/kernels")(tmp_path / "results" / "models" / record.key)
    assert script.guarded(lambda: evaluate.main([record.key, "--results", config.paths.results])) == 0
    assert capsys.readouterr().out.endswith("\nequal\n")


SLOW = pytest.mark.slow


@pytest.mark.promise("No file of weights and no checkpoint is unpickled as code.")
@pytest.mark.parametrize(
    "name", ["optimizer.pt", pytest.param("scheduler.pt", marks=SLOW), pytest.param("rng_state.pth", marks=SLOW)]
)
def test_a_checkpoint_is_not_unpickled_as_code(smoke, tmp_path, name, monkeypatch):
    """The Trainer reads its own pickles with weights_only. A run that cannot resume fails."""
    from experiments import runner
    from experiments.store import records
    from experiments.train import checkpoints

    config = smoke("method=mora", "training.steps=4", "training.warmup_steps=1", "training.checkpoint_every=2")
    store, key = records.Store(config.paths.results), key_of(identity_of(config))
    interrupt_at_step(3, config, monkeypatch)
    (checkpoint,) = store.checkpoints(key).glob("checkpoint-*")
    assert (checkpoint / name).is_file()
    torch.save({"x": Bomb(Path(tmp_path) / "went-off")}, checkpoint / name)
    (checkpoint / checkpoints.SEAL).unlink()
    checkpoints.seal(checkpoint)  # an attacker who can write the file can write the checksums
    record = runner.run(config)
    assert not (tmp_path / "went-off").exists()
    assert record.status == "failed"
    assert "Weights only load failed" in record.error["message"]
