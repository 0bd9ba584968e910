"""Runs on the CPU with base weights that bitsandbytes quantizes: training, resuming, scoring again and exporting.

The tests are slow tests because bitsandbytes is not a part of the default installation; `make slow` installs it.
"""

import functools
import importlib.util
import json

import pytest
import torch

from experiments import runner
from experiments.reuse import export
from experiments.reuse.load import restore
from experiments.store.records import Store
from experiments.train import base_models
from experiments.train.quantization import dequantized
from mora import MoraConfig
from scripts import evaluate

from ..conftest import compose
from ..processes import interrupt_at_step

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra `quantized`"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the import of bitsandbytes warns
]
KINDS = ("nf4", "int8")
TOKENS = torch.arange(3, 131).view(2, 64)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`runs(method, kind)`: the record of a finished smoke run, and its store."""
    store = Store(tmp_path_factory.mktemp("quantized"))

    @functools.cache
    def run(method: str, kind: str):
        own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={store.results}"]
        return runner.run(compose(*own, f"method={method}", f"quantization={kind}")), store

    return run


def load(kind: str, dtype=torch.float32):
    return base_models.load("tiny", None, dtype, quantization=kind).network


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_projections_are_quantized(kind):
    import bitsandbytes

    network = load(kind)
    layers = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}[kind]
    quantized = {n.rsplit(".", 1)[-1] for n, m in network.named_modules() if isinstance(m, layers)}
    assert quantized == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert network.lm_head.weight.dtype == network.model.embed_tokens.weight.dtype == torch.float32
    stored = sum(p.numel() * p.element_size() for n, p in network.named_parameters() if "_proj" in n)
    plain = sum(p.numel() for n, p in base_models.tiny_model().named_parameters() if "_proj" in n)
    assert stored == plain * {"nf4": 0.5, "int8": 1}[kind]


@pytest.mark.parametrize(
    ("method", "kind"), [("lora", "nf4"), ("mora", "nf4"), ("dora", "nf4"), ("lora", "int8"), ("mora", "int8")]
)
def test_a_run_trains_and_its_record_names_the_format_of_the_base(runs, method, kind):
    record, _ = runs(method, kind)
    assert record.status == "finished", record.error
    assert record.config["quantization"] == kind
    assert record.provenance["packages"]["bitsandbytes"]
    curve = record.metrics["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5


def test_nf4_trains_on_after_it_was_measured():
    """On some CPUs bitsandbytes packs the weights at their first use outside training. Packing cannot be undone."""
    from peft import get_peft_model

    model = get_peft_model(load("nf4"), MoraConfig(r=4, target_modules=["q_proj"], init_weights=False))
    before = [b.clone() for n, b in model.named_parameters() if "base_layer.weight" in n]
    with torch.inference_mode():
        first = model.eval()(TOKENS).logits
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    moved = [p.grad.abs().max() for n, p in model.named_parameters() if "mora_M" in n]
    assert len(moved) == 2
    assert min(moved) > 0
    assert all(map(torch.equal, before, [b for n, b in model.named_parameters() if "base_layer.weight" in n]))
    with torch.inference_mode():
        assert torch.equal(model.eval()(TOKENS).logits, first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_has_the_metrics_of_its_record(runs, kind, capsys):
    record, store = runs("mora", kind)
    assert evaluate.main([record.key, "--results", str(store.results)]) == 0
    assert capsys.readouterr().out.endswith("\nequal\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "mora"])
def test_the_exported_model_is_the_dequantized_base_with_the_update(runs, method, kind, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    record, store = runs(method, kind)
    export.export(record, store, tmp_path / "merged", "merged", export.LoraLimits())
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    beside = PeftModel.from_pretrained(dequantized(load(kind)), store.model(record.key)).eval()
    plain = PeftModel.from_pretrained(load("none"), store.model(record.key)).eval()
    with torch.inference_mode():
        merged, expected, other = (m(TOKENS).logits for m in (whole, beside, plain))
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
    assert (merged - other).abs().max() > 1e-2  # the base weights before quantization give other logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_dequantized_model_computes_the_same(kind):
    network, plain = load(kind).train(), dequantized(load(kind))
    with torch.inference_mode():
        torch.testing.assert_close(network(TOKENS).logits, plain(TOKENS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_into_the_quantized_base_is_refused_and_leaves_it(runs, kind):
    from peft import PeftModel

    record, store = runs("mora", kind)
    model = PeftModel.from_pretrained(load(kind), store.model(record.key)).eval()
    with torch.inference_mode():
        before = model(TOKENS).logits
        with pytest.raises(ValueError, match=r"bnb .bit.*off by [\d.]+ times the update"):
            model.merge_adapter()
        assert torch.equal(model(TOKENS).logits, before)
    assert restore(record, store)[0].merge_and_unload() is not None


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_continues_to_the_same_result(runs, kind, tmp_path, monkeypatch):
    record, _ = runs("mora", kind)
    own = ("scale=smoke", "logger=none", "hardware=cpu", f"paths.results={tmp_path}")
    config = compose(*own, "method=mora", f"quantization={kind}")
    interrupt_at_step(7, config, monkeypatch)
    assert runner.run(config).metrics == record.metrics
