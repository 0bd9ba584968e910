"""The exported experiment has the format of PEFT's comparison of methods, and the size that is claimed."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import LlamaForCausalLM

from experiments.cli import script
from experiments.report import method_page
from experiments.reuse import peft_comparison
from mora import MoraConfig
from scripts import export_peft_experiment

# The settings that `training_params.json` may change (class TrainConfig in utils.py of the comparison, 2026).
TRAINING = {
    *("model_id", "dtype", "max_seq_length", "batch_size", "batch_size_eval", "max_steps", "eval_steps", "compile"),
    *("use_gc", "query_template", "seed", "grad_norm_clip", "optimizer_type", "optimizer_kwargs", "lr_scheduler"),
    *("use_amp", "autocast_adapter_dtype", "generation_kwargs", "attn_implementation", "init_kv_cache_prefix"),
}


def call(*arguments: object) -> int:
    return script.guarded(lambda: export_peft_experiment.main([str(a) for a in arguments]))


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> Path:
    """The path of an experiment as the comparison wants it: relative, with three parts."""
    monkeypatch.chdir(tmp_path)
    assert call(".") == 0
    (folder,) = Path("experiments/mora").iterdir()
    return folder


def test_the_folder_is_an_experiment(experiment):
    assert experiment.parts[:2] == ("experiments", "mora")
    assert len(experiment.parts) == 3
    assert {path.name for path in experiment.iterdir()} == {"adapter_config.json", "training_params.json"}
    config = PeftConfig.from_pretrained(str(experiment))
    assert isinstance(config, MoraConfig)
    assert (config.r, config.operator, config.base_model_name_or_path) == (32, "sharing", None)
    training = json.loads((experiment / "training_params.json").read_text())
    assert training.keys() <= TRAINING
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], **training["optimizer_kwargs"])


def test_the_counts_are_those_of_the_model(experiment, capsys):
    """PEFT counts the parameters of the whole model, on the meta device."""
    counts = {}
    for name, config in (
        ("mora", PeftConfig.from_pretrained(str(experiment))),
        ("lora", LoraConfig(r=32, target_modules=list(peft_comparison.TARGETS))),
    ):
        with torch.device("meta"):
            model = get_peft_model(LlamaForCausalLM(peft_comparison.LLAMA_3_2_3B.config(pad_token_id=0)), config)
        counts[name] = model.get_nb_trainable_parameters()[0]
    assert counts == {"mora": 9_164_204, "lora": 9_175_040}


def test_the_script_says_the_sizes_and_how_to_start(tmp_path, capsys):
    assert call(tmp_path) == 0
    out = capsys.readouterr().out
    for words in ("9,164,204 trainable", "9,175,040", "q_proj 443, v_proj 362", "import mora", "-v experiments/mora/"):
        assert words in out
    assert all(number in out for number in re.findall(r"[\d,]*\d{3}", method_page.IN_PEFT))  # the text for readers
    for arguments, words in (([], "exists already"), (["--operator", "mixing"], "operator must be one of auto, trunc")):
        assert call(tmp_path, *arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
