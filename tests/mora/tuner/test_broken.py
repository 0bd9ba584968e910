"""Adapters that are broken or of another model: each one clear error, and never half an adapter that answers."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mora import MoraConfig
from mora.checkpoint import BASE_FILE, load_base, save_base
from mora.restart import restart

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def base(hidden=24, layers=2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 40, "num_hidden_layers": layers}
    return LlamaForCausalLM(LlamaConfig(vocab_size=48, num_attention_heads=2, max_position_embeddings=32, **sizes))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A saved adapter of rank 2 on two layers."""
    config = MoraConfig(r=2, operator="sharing", target_modules=["q_proj", "v_proj"], init_weights=False)
    get_peft_model(base(), config).save_pretrained(tmp_path)
    return tmp_path


def weights(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def settings(folder, **changed) -> None:
    values = json.loads((folder / CONFIG).read_text()) | changed
    (folder / CONFIG).write_text(json.dumps(values))


def first(tensors) -> str:
    return min(tensors)


@pytest.mark.promise(
    "An adapter of another model or rank, incomplete, cut off or not finite is refused when it is loaded."
)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda t: t.pop(first(t)),
            ValueError,
            r"layers\.0\.self_attn\.q_proj.* is missing in the file \(and 0 more\)",
        ),
        (
            lambda t: t.update({"base_model.model.x.mora_M": torch.ones(2, 2)}),
            ValueError,
            "x.mora_M is not in the model",
        ),
        (lambda t: t[first(t)].__setitem__((0, 0), torch.nan), ValueError, "'default' is broken: .* NaN or infinity"),
        (lambda t: t[first(t)].__setitem__((0, 0), torch.inf), ValueError, "'default' is broken: .* NaN or infinity"),
        (lambda t: t.update({first(t): torch.ones(3, 3)}), RuntimeError, r"size mismatch .*q_proj\.mora_M.*\[3, 3\]"),
    ],
)
def test_weights_that_do_not_fit(folder, change, error, words, low_cpu_mem_usage):
    weights(folder, change)
    with pytest.raises(error, match=words):
        PeftModel.from_pretrained(base(), folder, low_cpu_mem_usage=low_cpu_mem_usage)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ({"hidden": 48}, RuntimeError, "size mismatch"),
        ({"layers": 1}, ValueError, r"layers\.1\.self_attn\.q_proj.* is not in the model \(and 1 more\)"),
        ({"layers": 3}, ValueError, r"layers\.2\.self_attn\.q_proj.* is missing in the file"),
    ],
)
def test_an_adapter_of_another_model(folder, model, error, words):
    with pytest.raises(error, match=words):
        PeftModel.from_pretrained(base(**model), folder)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"r": 8}, RuntimeError, "size mismatch"),
        ({"r": "8"}, ValueError, "r must be a positive integer, got '8'"),
        ({"operator": "mixing"}, ValueError, "operator must be one of auto, truncation, sharing, decouple, rotation"),
        ({"mora_dropout": "0.1"}, ValueError, r"mora_dropout must be in \[0, 1\), got '0.1'"),
        ({"wrap": "no"}, ValueError, "wrap must be true or false, got 'no'"),
        ({"target_modules": ["q_proj"]}, ValueError, r"v_proj.* is not in the model"),
        ({"peft_type": "NOSUCH"}, (KeyError, ValueError), "NOSUCH"),
    ],
)
def test_settings_that_do_not_fit(folder, changed, error, words):
    settings(folder, **changed)
    with pytest.raises(error, match=words):
        PeftModel.from_pretrained(base(), folder)


@pytest.mark.parametrize("kept", [0, 4, 50, 700])
def test_a_truncated_file(folder, kept):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:kept])
    with pytest.raises(SafetensorError, match=r"header|covered"):
        PeftModel.from_pretrained(base(), folder)


def test_a_config_that_is_no_json(folder):
    (folder / CONFIG).write_text("{")
    with pytest.raises(json.JSONDecodeError):
        PeftModel.from_pretrained(base(), folder)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.promise("No file of weights and no checkpoint is unpickled as code.")
def test_an_adapter_is_never_unpickled_as_code(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    torch.save({"x": Bomb(tmp_path / "went-off")}, folder / "adapter_model.bin")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        PeftModel.from_pretrained(base(), folder)
    assert not (tmp_path / "went-off").exists()


@pytest.fixture
def restarted(tmp_path) -> Path:
    """The base weights of a model whose adapter was merged once, saved as the update."""
    config = MoraConfig(r=2, operator="sharing", target_modules=["q_proj", "v_proj"], init_weights=False)
    model = get_peft_model(base(), config)
    save_base(model, restart(model), tmp_path)
    assert load_base(base(), tmp_path)
    return tmp_path


def rewrite(folder, change=lambda t: None, described=lambda d: d) -> None:
    from safetensors import safe_open

    with safe_open(folder / BASE_FILE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        entries = json.loads(file.metadata()["updates"])
    change(tensors)
    save_file(tensors, folder / BASE_FILE, metadata={"updates": described(entries)})


@pytest.mark.parametrize(
    ("change", "described", "words"),
    [
        (lambda t: t["update:0:M"].fill_(torch.nan), json.dumps, "update:0:M holds NaN or infinity"),
        (lambda t: t.pop("update:0:M"), json.dumps, "update 0 does not fit"),
        (lambda t: t.update({"update:0:M": torch.ones(3, 4)}), json.dumps, "update 0 does not fit"),
        (lambda t: t.update({"other": torch.ones(1)}), json.dumps, "'other', which is no weight and no update"),
        (lambda t: t.update({"weight:x": torch.ones(1)}), json.dumps, "weights of x, which the model does not have"),
        (lambda t: None, lambda d: "{", "cannot be read"),
        (lambda t: None, lambda d: "3", "cannot be read"),
        (lambda t: None, lambda d: json.dumps([{"layer": "x", "operator": {}}]), "weights of x"),
        (lambda t: None, lambda d: json.dumps([{**d[0], "operator": {"name": "mixing"}}]), "update 0 does not fit"),
    ],
)
def test_base_weights_that_do_not_fit(restarted, change, described, words):
    rewrite(restarted, change, described)
    with pytest.raises(ValueError, match=words):
        load_base(base(), restarted)


def test_truncated_base_weights(restarted):
    whole = (restarted / BASE_FILE).read_bytes()
    for kept in (0, 4, 50, len(whole) - 1):
        (restarted / BASE_FILE).write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            load_base(base(), restarted)
