"""Adapters that the authors' code saved load as MoRA adapters and compute the logits of the authors' code.

`golden/official/type*` holds adapters that the authors' code trained and saved on the model in `golden/official/base`,
and the logits that their code computes.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import mora
from experiments.cli import script
from mora import operators
from scripts import import_official

GOLDEN = Path(__file__).parent.parent / "golden" / "official"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TYPES = sorted(operators.OFFICIAL_TYPES)


def base(**options):
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "base", **options)


@torch.no_grad()
def distance(model, mora_type: int) -> float:
    """The largest difference between the logits of `model` and those of the authors' code."""
    expected = load_file(GOLDEN / f"type{mora_type}" / "expected.safetensors")
    return float((model.eval()(expected["input_ids"]).logits - expected["logits"]).abs().max())


@pytest.mark.promise("An adapter of the authors' code, of any type, computes the same logits here, within 1e-5.")
@pytest.mark.parametrize("mora_type", TYPES)
def test_the_logits_are_those_of_the_authors_code(mora_type, tmp_path, counted):
    config = mora.convert_official(GOLDEN / f"type{mora_type}", tmp_path / "out")
    assert config.rounding == "nearest"
    assert distance(base(), mora_type) > 1e-2, "the adapter has no effect, so the test proves nothing"
    model = PeftModel.from_pretrained(base(), tmp_path / "out")
    assert distance(model, mora_type) < 1e-5
    assert distance(model.merge_and_unload(), mora_type) < 1e-5
    counted(1, "adapters")


def test_every_type_has_its_own_logits(tmp_path):
    """Each adapter, read as another type, gives other logits: no test above passes with a wrong operator."""
    mora.convert_official(GOLDEN / "type1", tmp_path)
    settings = json.loads((tmp_path / CONFIG).read_text())
    for mora_type in set(TYPES) - {1, 6}:
        (tmp_path / CONFIG).write_text(json.dumps(settings | operators.OFFICIAL_TYPES[mora_type][1]))
        assert distance(PeftModel.from_pretrained(base(), tmp_path), 1) > 1e-2


def test_the_paper_rounds_down_so_the_shapes_differ(tmp_path):
    mora.convert_official(GOLDEN / "type1", tmp_path)
    settings = json.loads((tmp_path / CONFIG).read_text())
    assert settings["rounding"] == "nearest"
    (tmp_path / CONFIG).write_text(json.dumps(settings | {"rounding": "floor"}))
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(base(), tmp_path)


def test_a_converted_adapter_trains_on(tmp_path):
    mora.convert_official(GOLDEN / "type6", tmp_path)
    model = PeftModel.from_pretrained(base(), tmp_path, is_trainable=True).train()
    tokens = load_file(GOLDEN / "type6" / "expected.safetensors")["input_ids"]
    model(tokens, labels=tokens).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == 14
    assert all(gradient.any() for gradient in gradients)


def test_settings_of_a_training_tool():
    """A training tool that was made for the authors' code has these settings, and no file."""
    settings = {"r": 8, "use_mora": True, "mora_type": 4, "lora_alpha": 16, "lora_dropout": 0.05}
    config = mora.official_config(settings | {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4}})
    assert (config.operator, config.in_groups, config.out_groups) == ("sharing", "strided", "contiguous")
    assert (config.r, config.mora_dropout, config.target_modules) == (8, 0.05, {"q_proj"})
    assert config.rank_of("model.layers.0.q_proj") == 4


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the adapter of type 1, for a test that damages it."""
    return Path(shutil.copytree(GOLDEN / "type1", tmp_path / "official"))


def change_settings(folder, **changes) -> None:
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(settings | changes))


def change_weights(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors, min(tensors))
    save_file(tensors, folder / WEIGHTS)


def cut_off(folder) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


REFUSED = {
    "a LoRA file": (
        lambda f: change_settings(f, use_mora=False),
        "this is a LoRA adapter, because use_mora is not true; PeftModel.from_pretrained loads it as it is",
    ),
    "an adapter of this library": (lambda f: change_settings(f, peft_type="MORA"), "peft_type is 'MORA'"),
    "type 5": (lambda f: change_settings(f, mora_type=5), "mora_type must be one of 1, 2, 3, 4, 6, got 5"),
    "an unknown type": (lambda f: change_settings(f, mora_type="x"), "must be one of 1, 2, 3, 4, 6, got 'x'"),
    "no type": (lambda f: change_settings(f, mora_type=None), "must be one of 1, 2, 3, 4, 6, got None"),
    "a type that is a list": (lambda f: change_settings(f, mora_type=[1]), "got [1]"),
    "DoRA": (lambda f: change_settings(f, use_dora=True), "use_dora must be False, got True: MoRA does not have"),
    "biases": (lambda f: change_settings(f, bias="lora_only"), "bias must be 'none', got 'lora_only'"),
    "a wrong rank": (lambda f: change_settings(f, r="4"), "r must be a positive integer, got '4'"),
    "a file that is cut off": (cut_off, "is not a complete safetensors file"),
    "no file of weights": (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors does not exist"),
    "no settings": (lambda f: (f / CONFIG).unlink(), "adapter_config.json cannot be read: No such file"),
    "settings that are not JSON": (lambda f: (f / CONFIG).write_text("{"), "is not a JSON file"),
    "settings that are a list": (lambda f: (f / CONFIG).write_text("[]"), "holds no settings"),
    "half of a pair": (lambda f: change_weights(f, lambda t, n: t.pop(n)), "lora_A.weight is missing"),
    "factors of a LoRA": (
        lambda f: change_weights(f, lambda t, n: t.update({n: torch.ones(4, 48)})),
        "down_proj are not the same square matrix",
    ),
    "two matrices": (
        lambda f: change_weights(f, lambda t, n: t.update({n: t[n] + 1})),
        "down_proj are not the same square matrix",
    ),
    "another kind of tensor": (
        lambda f: change_weights(f, lambda t, n: t.update({"x.lora_embedding_A": torch.ones(2)})),
        "x.lora_embedding_A, which a MoRA adapter of the authors' code does not have",
    ),
    "a value that is not finite": (lambda f: change_weights(f, lambda t, n: t[n].fill_(torch.nan)), "NaN or infinity"),
    "no tensors": (lambda f: change_weights(f, lambda t, n: t.clear()), "holds no adapter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_in_one_line(case, folder, tmp_path, capsys):
    damage, words = REFUSED[case]
    damage(folder)
    out = tmp_path / "out"
    assert script.guarded(lambda: import_official.main([str(folder), str(out)])) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_half_of_the_layers_are_refused_when_the_adapter_is_loaded(folder, tmp_path):
    """The number of layers is known only with the model."""

    def drop_a_layer(tensors, name):
        layer = name.rpartition(".lora_")[0]
        del tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]

    change_weights(folder, drop_a_layer)
    mora.convert_official(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"down_proj\.mora_M.* is missing in the file"):
        PeftModel.from_pretrained(base(), tmp_path / "out")


def test_whole_modules_stay_in_the_file(folder, tmp_path):
    head = "base_model.model.lm_head.weight"
    change_settings(folder, modules_to_save=["lm_head"])
    change_weights(folder, lambda t, n: t.update({head: torch.full((97, 48), 0.5)}))
    mora.convert_official(folder, tmp_path / "out")
    model = PeftModel.from_pretrained(base(), tmp_path / "out")
    assert (model.get_base_model().lm_head.modules_to_save["default"].weight == 0.5).all()


def test_the_script_writes_the_adapter_and_keeps_what_exists(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(GOLDEN / "type1"), str(out)]
    assert script.guarded(lambda: import_official.main(arguments)) == 0
    assert "operator sharing, r = 4" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [CONFIG, WEIGHTS]
    before = (out / WEIGHTS).read_bytes()
    assert script.guarded(lambda: import_official.main(arguments)) == 2
    assert "OUT exists already" in capsys.readouterr().err
    assert script.guarded(lambda: import_official.main([str(tmp_path / "nosuch"), str(tmp_path / "x")])) == 2
    assert "FOLDER is not a folder" in capsys.readouterr().err
    assert (out / WEIGHTS).read_bytes() == before
    with pytest.raises(ValueError, match="holds an adapter already"):
        mora.convert_official(*arguments)
