"""Exported models compute the same as the trained models, in processes that do not import this project."""

import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from experiments import runner
from experiments.cli import script
from experiments.errors import ConfigError
from experiments.reuse import export, load
from experiments.store.records import Store
from experiments.train import base_models, scratch
from scripts import export_adapter

from .. import families
from ..conftest import compose

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
    loras["square-miss"] = (folder / "base", folder / "square-miss")
    assert call(records["square"].key, folder / "square-miss", "--results", results, "--format", "miss") == 0
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


def test_a_miss_adapter_computes_the_same_in_stock_peft_and_holds_m_alone(trained, exported):
    torch.testing.assert_close(exported[1]["square-miss"], logits_of(trained, "square"), atol=1e-5, rtol=0)
    weights = load_file(exported[0] / "square-miss" / "adapter_model.safetensors")
    results, records = trained
    own = load_file(results / "models" / records["square"].key / "adapter_model.safetensors")
    assert sum(t.numel() for t in weights.values()) == sum(t.numel() for t in own.values()) == len(own) * 64 * 64


@pytest.mark.parametrize("error", [ValueError, NotImplementedError, RuntimeError])  # the last: a LoRA with a bias
def test_an_adapter_that_peft_cannot_merge_is_one_line(trained, tmp_path, monkeypatch, capsys, error):
    def refuse(*_, **__):
        raise error("a nonlinear update cannot be merged.")

    monkeypatch.setattr(PeftModel, "merge_and_unload", refuse, raising=False)
    results, records = trained
    arguments = [records["mora"].key, str(tmp_path / "out"), "--results", str(results)]
    assert script.guarded(lambda: export_adapter.main(arguments)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: PEFT cannot merge the adapter of {records['mora'].name}: a nonlinear update cannot")
    assert line.endswith("; allowed: --format adapter")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_needs_more_memory_is_not_called_impossible(trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PeftModel, "merge_and_unload", fail, raising=False)
    results, records = trained
    with pytest.raises(torch.OutOfMemoryError):
        call(records["mora"].key, tmp_path / "out", "--results", results)


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
        ("mora", ["--rank", "4", "--force"], "--format merged: --rank and --force have no effect; allowed: --format"),
        ("mora", ["--format", "adapter", "--tolerance", "0.1"], "--format adapter: --tolerance has no effect; allowed"),
        ("lora", ["--format", "lora", "--rank", "4"], "is a LoRA already, on which --rank has no effect; allowed: --f"),
        ("mora", ["--format", "miss"], "has no equal in MiSS: r_hat must divide the inputs where wrap is true"),
        ("rotation", ["--format", "miss"], "only the operator sharing with strided groups equals MiSS; got rotation"),
        ("lora", ["--format", "miss"], "is a LORA adapter; --format miss is for MoRA"),
        ("remora", ["--format", "miss"], "changed base weights too (restarts"),
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


@pytest.mark.promise("An export of an odd record ends with one line.")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {}}, "method, task, scale, model, quantization, seed, training, hardware, logger"),
        ({"provenance": {"added": 3}}, "is not a readable record: provenance.added: "),
    ],
)
@pytest.mark.parametrize("form", ["merged", "lora", "miss"])
def test_an_odd_record_is_one_line(copied, tmp_path, capsys, form, change, words, counted):
    results, key = copied
    path = Store(results).path(key)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert call(key, tmp_path / "out", "--results", results, "--format", form) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    counted(1, "odd records")


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
    def interrupted(record, store, folder, dtype):
        save_file({"half": torch.zeros(1)}, folder / "model.safetensors")
        raise KeyboardInterrupt

    results, records = trained
    monkeypatch.setattr(export, "merged", interrupted)
    assert call(records["mora"].key, tmp_path / "out", "--results", results) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.promise("If the disk is full, an export ends with one line of error and leaves nothing.")
@pytest.mark.parametrize("form", export.FORMATS)
def test_an_export_on_a_full_disk(trained, tmp_path, capsys, form, counted):
    results, records = trained
    record = records["square" if form == "miss" else "mora"]  # MiSS needs an r_hat that divides the inputs
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # refuses every write beyond 100 bytes of a file
    try:
        code = call(record.key, tmp_path / "out", "--results", results, "--format", form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith("error: ")
    assert "File too large" in err
    assert not list(tmp_path.iterdir())
    counted(1, "full disks")


@pytest.fixture(scope="module")
def of_a_folder(tmp_path_factory):
    """The record of a LoRA on a model folder whose files hold bfloat16, its results folder, and the model folder."""
    folder = tmp_path_factory.mktemp("named-folder")
    base = families.write("phi3", folder / "base", dtype="bfloat16")
    own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={folder / 'results'}", f"model={base}"]
    steps = ["training.steps=2", "training.warmup_steps=1", "training.checkpoint_every=2", "training.evaluate_every=2"]
    return runner.run(compose(*own, *steps, "method=lora", "method.rank=32")), folder / "results", base


@pytest.mark.promise("An export names no folder of the machine that trained.")
@pytest.mark.parametrize("form", [form for form in export.FORMATS if form != "miss"])  # the run is one of LoRA
def test_an_export_names_no_folder(of_a_folder, tmp_path, form):
    record, results, _ = of_a_folder
    assert call(record.key, tmp_path / "out", "--results", results, "--format", form) == 0
    files = list((tmp_path / "out").iterdir())
    assert files
    for file in files:
        assert b"named-folder" not in file.read_bytes(), file
    if form != "merged":
        assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_an_export_names_a_model_of_the_hub(tmp_path, trained):
    settings = {"base_model_name_or_path": "owner/name", "r": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    _, records = trained
    record = dataclasses.replace(records["lora"], config={"model": "owner/name"}, identity={"model": "owner/name"})
    export.unname_base(tmp_path, record)
    assert load.adapter_settings(tmp_path) == settings
    copy = {"model": "/models/copy", "model_id": "owner/name"}  # a copy on the disk of the hub's model
    export.unname_base(tmp_path, dataclasses.replace(record, config=copy))
    assert load.adapter_settings(tmp_path) == settings
    export.unname_base(tmp_path, dataclasses.replace(record, identity={"model": "folder-0123456789abcdef"}))
    assert load.adapter_settings(tmp_path) == settings | {"base_model_name_or_path": None}


def test_an_export_has_the_number_format_of_the_base_or_the_one_that_was_asked_for(of_a_folder, tmp_path, capsys):
    record, results, _ = of_a_folder

    def formats(name: str, *arguments: str) -> set[torch.dtype]:
        assert call(record.key, tmp_path / name, "--results", results, *arguments) == 0
        weights: dict[str, torch.Tensor] = {}
        for path in (tmp_path / name).glob("*.safetensors"):
            weights |= load_file(path)
        return {tensor.dtype for tensor in weights.values()}

    assert formats("base") == {torch.bfloat16}
    assert "a whole model, in bfloat16" in capsys.readouterr().out
    assert formats("wide", "--dtype", "float32") == {torch.float32}
    assert formats("lora", "--format", "lora") == {torch.float32}
    assert formats("half", "--format", "lora", "--dtype", "float16") == {torch.float16}
    assert call(record.key, tmp_path / "no", "--results", results, "--format", "adapter", "--dtype", "float16") == 2
    assert "an adapter is exported as it was saved" in capsys.readouterr().err


def test_a_rank_that_servers_refuse_by_default_is_named(trained, of_a_folder, tmp_path, capsys):
    record, results, _ = of_a_folder
    assert call(record.key, tmp_path / "own", "--results", results, "--format", "lora") == 0
    assert "its rank 32 is above vLLM's default of 16: vllm serve --max-lora-rank 32" in capsys.readouterr().out
    results, records = trained
    assert call(records["mora"].key, tmp_path / "exact", "--results", results, "--format", "lora") == 0
    assert "its rank 86 is above vLLM's default of 16: vllm serve --max-lora-rank 128" in capsys.readouterr().out
    assert call(records["lora"].key, tmp_path / "small", "--results", results, "--format", "lora") == 0
    assert "vllm" not in capsys.readouterr().out


def test_pushing_without_a_hub_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="--push someone/model"):
        export.push(tmp_path, "someone/model")


def test_the_summary_of_an_adapter_says_what_must_be_imported_first(trained, tmp_path):
    results, records = trained

    def summary(record, name: str) -> str:
        return export.export(record, Store(results), tmp_path / name, "adapter", export.LoraLimits())

    assert "loads it after `import mora`" in summary(records["mora"], "mora")
    assert "after" not in summary(records["lora"], "lora")
    method = records["lora"].config["method"] | {"module": "my/band.py"}
    own = dataclasses.replace(records["lora"], config=records["lora"].config | {"method": method})
    assert "loads it after an import of my/band.py" in summary(own, "own")
