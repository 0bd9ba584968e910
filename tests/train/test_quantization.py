"""Runs on a base that bitsandbytes has quantized, on the CPU: training, resuming, measuring again, exporting.

Slow because importing bitsandbytes is, and because it is no part of the default installation: `make slow` adds it.
"""

import importlib.util
import json

import pytest
import torch

from experiments.reuse import export
from experiments.reuse.load import restore
from experiments.store.records import Store
from experiments.train import base_models
from experiments.train.quantization import dequantized
from mora import MoraConfig
from scripts import evaluate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra `quantized`"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of bitsandbytes, when it is imported
]
KINDS = ("nf4", "int8")
TOKENS = torch.arange(3, 131).view(2, 64)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`runs(method, kind)`: the record of a finished smoke run, and the store that it is in."""
    from experiments import runner

    from ..conftest import compose

    store, known = Store(tmp_path_factory.mktemp("quantized")), {}

    def run(method: str, kind: str):
        if (method, kind) not in known:
            own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={store.results}"]
            known[method, kind] = runner.run(compose(*own, f"method={method}", f"quantization={kind}"))
        return known[method, kind], store

    return run


def load(kind: str, dtype=torch.float32):
    return base_models.load("tiny", None, dtype, quantization=kind)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_projections_are_quantized(kind):
    import bitsandbytes

    network = load(kind)
    layers = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}[kind]
    found = {n.rsplit(".", 1)[-1] for n, m in network.named_modules() if isinstance(m, layers)}
    assert found == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert network.lm_head.weight.dtype == network.model.embed_tokens.weight.dtype == torch.float32
    stored = sum(p.numel() * p.element_size() for n, p in network.named_parameters() if "_proj" in n)
    plain = sum(p.numel() for n, p in base_models.tiny_model().named_parameters() if "_proj" in n)
    assert stored == plain * {"nf4": 0.5, "int8": 1}[kind]


@pytest.mark.parametrize(
    ("method", "kind"), [("lora", "nf4"), ("mora", "nf4"), ("dora", "nf4"), ("lora", "int8"), ("mora", "int8")]
)
def test_it_trains_and_the_record_says_on_what(runs, method, kind):
    record, _ = runs(method, kind)
    assert record.status == "finished", record.error
    assert record.config["quantization"] == kind
    assert record.provenance["packages"]["bitsandbytes"]
    curve = record.metrics["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5


def test_nf4_trains_on_after_it_was_measured():
    """bitsandbytes would pack the weights on some CPUs when they are first used outside training, for good."""
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
        made, wanted, other = (m(TOKENS).logits for m in (whole, beside, plain))
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)
    assert (made - other).abs().max() > 1e-2  # the base as it was before quantization gives something else


@pytest.mark.parametrize("kind", KINDS)
def test_dequantized_is_what_the_quantized_model_computes(kind):
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
def test_an_interrupted_run_goes_on_to_the_same_end(runs, kind, tmp_path, monkeypatch):
    from experiments import runner
    from experiments.train import callbacks

    from ..conftest import compose

    record, _ = runs("mora", kind)
    again = compose(
        "scale=smoke", "logger=none", "hardware=cpu", f"paths.results={tmp_path}", "method=mora", f"quantization={kind}"
    )
    original = callbacks.ProgressBar.on_step_end

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(callbacks.ProgressBar, "on_step_end", stop)
    with pytest.raises(KeyboardInterrupt):
        runner.run(again)
    monkeypatch.undo()
    assert runner.run(again).metrics == record.metrics
