"""A broken adapter file, or one of another model, is a clear error in PEFT's loaders: no model has half an adapter."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
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
    """The folder of a saved adapter, r = 2, on q_proj and v_proj of two blocks."""
    config = MoraConfig(r=2, operator="sharing", target_modules=["q_proj", "v_proj"], init_weights=False)
    get_peft_model(base(), config).save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def change_settings(folder, **changes) -> None:
    settings = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(settings))


def first(tensors) -> str:
    return min(tensors)


@pytest.mark.promise(
    "An adapter that is incomplete, cut off or not finite, or of another model or rank, is refused when PEFT loads it."
)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "message"),
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
def test_weights_that_do_not_fit(folder, change, error, message, low_cpu_mem_usage):
    change_weights(folder, change)
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(base(), folder, low_cpu_mem_usage=low_cpu_mem_usage)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"hidden": 48}, RuntimeError, "size mismatch"),
        ({"layers": 1}, ValueError, r"layers\.1\.self_attn\.q_proj.* is not in the model \(and 1 more\)"),
        ({"layers": 3}, ValueError, r"layers\.2\.self_attn\.q_proj.* is missing in the file"),
    ],
)
def test_an_adapter_of_another_model(folder, sizes, error, message):
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(base(**sizes), folder)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
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
def test_settings_that_do_not_fit(folder, changes, error, message):
    change_settings(folder, **changes)
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(base(), folder)


@pytest.mark.parametrize("length", [0, 4, 50, 700])
def test_a_truncated_file(folder, length):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:length])
    with pytest.raises(SafetensorError, match=r"header|covered"):
        PeftModel.from_pretrained(base(), folder)


def test_a_config_that_is_not_json(folder):
    (folder / CONFIG).write_text("{")
    with pytest.raises(json.JSONDecodeError):
        PeftModel.from_pretrained(base(), folder)


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.promise("No file of weights and no checkpoint is unpickled as code.")
def test_an_adapter_is_never_unpickled_as_code(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    torch.save({"x": Bomb(tmp_path / "explosion")}, folder / "adapter_model.bin")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        PeftModel.from_pretrained(base(), folder)
    assert not (tmp_path / "explosion").exists()


@pytest.fixture
def restarted(tmp_path) -> Path:
    """A folder with the base.safetensors of a model after one restart. The file holds the merged updates."""
    config = MoraConfig(r=2, operator="sharing", target_modules=["q_proj", "v_proj"], init_weights=False)
    model = get_peft_model(base(), config)
    save_base(model, restart(model), tmp_path)
    assert load_base(base(), tmp_path)
    return tmp_path


def change_base_file(folder, change, describe) -> None:
    with safe_open(folder / BASE_FILE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        descriptions = json.loads(file.metadata()["updates"])
    change(tensors)
    save_file(tensors, folder / BASE_FILE, metadata={"updates": describe(descriptions)})


@pytest.mark.parametrize(
    ("change", "describe", "message"),
    [
        (lambda t: t["update:0:M"].fill_(torch.nan), json.dumps, "update:0:M holds NaN or infinity"),
        (lambda t: t.pop("update:0:M"), json.dumps, "update 0 does not fit"),
        (lambda t: t.update({"update:0:M": torch.ones(3, 4)}), json.dumps, "update 0 does not fit"),
        (
            lambda t: t.update({"other": torch.ones(1)}),
            json.dumps,
            "'other'; a name must start with weight:, merged: or update:",
        ),
        (lambda t: t.update({"weight:x": torch.ones(1)}), json.dumps, "weights of x, which the model does not have"),
        (lambda t: None, lambda d: "{", "cannot be read"),
        (lambda t: None, lambda d: "3", "cannot be read"),
        (lambda t: None, lambda d: json.dumps([{"layer": "x", "operator": {}}]), "weights of x"),
        (lambda t: None, lambda d: json.dumps([{**d[0], "operator": {"name": "mixing"}}]), "update 0 does not fit"),
    ],
)
def test_base_weights_that_do_not_fit(restarted, change, describe, message):
    change_base_file(restarted, change, describe)
    with pytest.raises(ValueError, match=message):
        load_base(base(), restarted)


def test_truncated_base_weights(restarted):
    content = (restarted / BASE_FILE).read_bytes()
    for length in (0, 4, 50, len(content) - 1):
        (restarted / BASE_FILE).write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not a complete safetensors file"):
            load_base(base(), restarted)
