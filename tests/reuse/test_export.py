"""Exported models compute the same as the trained models, in processes that do not import this project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.cli import script
from experiments.errors import ConfigError
from experiments.reuse import export, load
from experiments.store.records import Store
from experiments.train import base_models, scratch
from scripts import export_adapter

TOKENS = torch.arange(3, 43).view(2, 20)
# Loads each export with stock transformers and PEFT, and writes its logits. Arguments: {name: [folder of the base,
# folder of the adapter or null]}, the tokens, and the file for the logits.
STOCK = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
folders, tokens, out = json.loads(sys.argv[1]), torch.tensor(json.loads(sys.argv[2])), {}
for name, (base, adapter) in folders.items():
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        out[name] = model.eval()(tokens).logits
save_file(out, sys.argv[3])
assert not {"mora", "experiments"} & set(sys.modules)
"""


def call(*arguments: object) -> int:
    return script.guarded(lambda: export_adapter.main([str(a) for a in arguments]))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of the exports, and the logits that stock libraries compute with each export, by `name-format`."""
    results, records = trained
    folder = tmp_path_factory.mktemp("exported")
    base_models.tiny_model().save_pretrained(folder / "base")
    merged = {name: (folder / f"{name}-merged", None) for name in records}
    loras = {f"{name}-lora": (folder / "base", folder / f"{name}-lora") for name in ("mora", "lora")}
    for name, record in records.items():
        assert call(record.key, folder / f"{name}-merged", "--results", results) == 0
    for name in ("mora", "lora"):
        assert call(records[name].key, folder / f"{name}-lora", "--results", results, "--format", "lora") == 0
    folders = {name: [str(p) if p else None for p in pair] for name, pair in (merged | loras).items()}
    arguments = [json.dumps(folders), json.dumps(TOKENS.tolist()), str(folder / "logits.safetensors")]
    done = subprocess.run([sys.executable, "-c", STOCK, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, load_file(folder / "logits.safetensors")


@torch.inference_mode()
def logits_of(trained, name: str) -> torch.Tensor:
    results, records = trained
    return load.restore(records[name], Store(results))[0](TOKENS).logits


@pytest.mark.parametrize("name", ["mora", "rotation", "remora", "fft", "lora"])
def test_the_merged_model_computes_the_same(trained, exported, name):
    logits = logits_of(trained, name)
    torch.testing.assert_close(exported[1][name], logits, atol=1e-5, rtol=0)
    base = base_models.tiny_model().eval()(TOKENS).logits
    assert (logits - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mora", "lora"])
def test_the_lora_computes_the_same_in_stock_peft(trained, exported, name):
    torch.testing.assert_close(exported[1][f"{name}-lora"], logits_of(trained, name), atol=1e-5, rtol=0)


def test_the_merged_folder_has_its_tokenizer_and_nothing_of_the_trainer(exported):
    from transformers import AutoTokenizer

    folder = exported[0] / "mora-merged"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("key:1").input_ids == scratch.byte_tokenizer()("key:1").input_ids
    assert not list(exported[0].rglob("training_args.bin"))
    assert not list(exported[0].glob(".*"))


def test_the_adapter_is_what_was_saved(trained, tmp_path, capsys):
    results, records = trained
    for name, words in (("mora", "import mora"), ("remora", "load_restarted")):
        key, out = records[name].key, tmp_path / name
        assert call(key, out, "--results", results, "--format", "adapter") == 0
        assert words in capsys.readouterr().out
        for path in out.iterdir():
            assert path.read_bytes() == (results / "models" / key / path.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("rotation", ["--format", "lora"], "of the update is lost (relative Frobenius norm) in the worst layer"),
        ("mora", ["--format", "lora", "--rank", "2"], "is no LoRA of rank 2 (operator sharing)"),
        ("remora", ["--format", "lora"], "changed base weights too (restarts"),
        ("fft", ["--format", "lora"], "has no adapter; --format merged"),
        ("fft", ["--format", "adapter"], "has no adapter; --format merged"),
        ("mora", ["--rank", "0"], "--rank"),
    ],
)
def test_what_would_not_be_the_model_is_refused(trained, tmp_path, capsys, name, arguments, words):
    results, records = trained
    try:
        code = call(records[name].key, tmp_path / "out", "--results", results, *arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_force_writes_the_closest_and_says_what_is_lost(trained, tmp_path, capsys):
    results, records = trained
    lost = []
    for rank in (4, 64):
        out = tmp_path / str(rank)
        arguments = ["--results", results, "--format", "lora", "--rank", rank, "--force"]
        assert call(records["rotation"].key, out, *arguments) == 0
        lost.append(float(capsys.readouterr().out.split(": ")[2].split(" of the update")[0]))
        assert json.loads((out / "adapter_config.json").read_text())["r"] == rank
    assert 1 > lost[0] > lost[1] > 0.01


def test_the_tolerance_accepts_a_small_loss(trained, tmp_path, capsys):
    results, records = trained
    arguments = [records["rotation"].key, tmp_path / "out", "--results", results, "--format", "lora", "--rank", 64]
    assert call(*arguments, "--tolerance", "1e-4") == 2
    assert call(*arguments, "--tolerance", "0.999") == 0


def test_an_existing_folder_is_left_alone(trained, tmp_path, capsys):
    results, records = trained
    (tmp_path / "mine").write_text("precious")
    assert call(records["mora"].key, tmp_path / "mine", "--results", results) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


def test_an_export_that_breaks_off_leaves_nothing(trained, tmp_path, monkeypatch):
    def interrupted(record, store, folder):
        save_file({"half": torch.zeros(1)}, folder / "model.safetensors")
        raise KeyboardInterrupt

    results, records = trained
    monkeypatch.setattr(export, "merged", interrupted)
    assert call(records["mora"].key, tmp_path / "out", "--results", results) == 130
    assert not list(tmp_path.iterdir())


def test_pushing_without_a_hub_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="--push someone/model"):
        export.push(tmp_path, "someone/model")
