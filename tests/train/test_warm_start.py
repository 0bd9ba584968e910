"""ReLoRA's warm start: the adapted weights train first, then the adapters, with the same bits after an interruption."""

import pytest
import torch
from safetensors.torch import load_file

from experiments import runner
from experiments.errors import ConfigError
from experiments.estimate import dry_run
from experiments.store.records import Store
from experiments.train import base_models
from scripts import evaluate

from ..conftest import some_slow
from ..processes import interrupt_at_step

WARM = ("task=pretrain", "training.warm_start_steps=3")


def parts(store: Store, key: str) -> tuple[dict, dict]:
    """The adapter and the base weights of a finished run, by the names of the files."""
    folder = store.model(key)
    return load_file(folder / "adapter_model.safetensors"), load_file(folder / "base.safetensors")


def initial(config) -> dict[str, torch.Tensor]:
    return dict(base_models.of_run(config, torch.float32).network.named_parameters())


@pytest.mark.parametrize("method", some_slow(["lora", "dora", "remora"], ["remora"]))
def test_the_weights_train_first_and_then_the_adapters(method, smoke, tmp_path, capsys):
    config = smoke(f"method={method}", *WARM)
    record = runner.run(config)
    assert record.status == "finished", record.error
    store = Store(config.paths.results)
    adapter, base = parts(store, record.key)
    start = initial(config)
    assert {name.removeprefix("weight:") for name in base} == start.keys()
    moved = [name for name, weight in start.items() if not torch.equal(weight, base[f"weight:{name}"])]
    assert any("q_proj" in name for name in moved)
    assert any(t.any() for name, t in adapter.items() if not name.endswith("lora_A.weight"))
    without = runner.run(smoke(f"method={method}", WARM[0]))
    assert record.cost["trainable_parameters"] == without.cost["trainable_parameters"]
    assert record.key != without.key
    capsys.readouterr()
    assert evaluate.main([record.key, "--results", str(config.paths.results)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal"


def test_until_its_end_a_warm_start_is_full_training(smoke):
    """Without dropout and restarts, the losses of the first steps are those of full training."""
    same = ("training.learning_rate=1e-3", "training.log_every=1", "training.checkpoint_every=2")
    warm, full = (runner.run(smoke(*own, *same)) for own in (("method=lora", *WARM), ("method=fft", WARM[0])))
    losses = [[row["loss"] for row in record.metrics["curve"] if "loss" in row] for record in (warm, full)]
    assert losses[0][:4] == pytest.approx(losses[1][:4], abs=1e-6)
    assert losses[0][-1] != pytest.approx(losses[1][-1], abs=1e-6)


def test_the_dry_run_says_that_more_trains_at_first(smoke):
    page = dry_run.table(smoke("method=lora", *WARM))
    assert "in the first 3 steps all weights train; method=fft dry_run=true estimates such steps" in page


@pytest.mark.parametrize("step", some_slow([2, 4], [4]))
def test_an_interruption_changes_no_bit(step, smoke, tmp_path, monkeypatch):
    whole = smoke("method=remora", *WARM, f"paths.results={tmp_path / 'whole'}")
    cut = smoke("method=remora", *WARM, f"paths.results={tmp_path / 'cut'}")
    expected = runner.run(whole)
    interrupt_at_step(step, cut, monkeypatch)
    resumed = runner.run(cut)
    assert resumed.metrics == expected.metrics
    for one, other in zip(*(parts(Store(c.paths.results), expected.key) for c in (whole, cut)), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=fft", "task=pretrain"], "must be null for method=fft and task=pretrain: it needs an"),
        (["method=lora", "task=uuid"], "must be null for method=lora and task=uuid: it needs an adapter, and"),
        (["task=pretrain", "training.warm_start_steps=1000"], "must be less than training.steps="),
        (["task=pretrain", "hardware.processes=2"], "must be null with several processes or sharded weights"),
    ],
)
def test_what_cannot_have_a_warm_start_is_one_line(overrides, message, smoke):
    with pytest.raises(ConfigError, match=f"^training.warm_start_steps {message}"):
        smoke(*(["training.warm_start_steps=2", *overrides]))
