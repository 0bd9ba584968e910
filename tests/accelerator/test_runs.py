"""Whole runs on the pretend accelerator: their numbers, their resumption, and what a step makes the CPU wait for."""

import pytest
import torch
from transformers import TrainerCallback

from experiments import runner
from experiments.data.rows import Rows
from experiments.measure.evaluation import evaluation_mode
from experiments.train import adapt, base_models
from experiments.train import trainer as training
from experiments.train.placement import Placement, base_dtype
from experiments.train.trainer import RunTrainer

from .device import synchronisations
from .parts import MIXED, plant

STEPS = ("training.steps=4", "training.batch_size=2", "training.evaluate_every=4", "training.checkpoint_every=2")
RESTART = ("method.restart_every=2", "method.restart_warmup=1")
FULL, PADDED = (6, 6, 6, 6), (6, 4, 6, 5)
# To choose its attention, transformers looks into the mask of padded rows, or at the positions of other rows.
OF_TRANSFORMERS = "masking_utils.py"


def trainer_of(config, folder, lengths=FULL, measure=dict) -> RunTrainer:
    """The trainer of a run on rows of these lengths."""
    placement = Placement.of(config.hardware)
    network = base_models.of_run(config, base_dtype(config, placement), placement.device).network
    torch.manual_seed(0)  # adapters may start at random
    rows = Rows.of([(range(5, 5 + n), [True] * n) for n in lengths])
    return training.build(adapt.adapt(network, config), rows, measure, config, placement, folder)


def trained(trainer: RunTrainer) -> list[torch.Tensor]:
    """The trained parameters after the training, on the CPU."""
    training.train(trainer)
    return [p.detach().cpu() for p in trainer.network.parameters() if p.requires_grad]


def equal(left, right) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def finished(config):
    record = runner.run(config)
    assert record.status == "finished", record.error
    return record


def test_a_run_gives_the_numbers_of_the_cpu(on_accelerator, smoke, tmp_path, monkeypatch):
    """The run has a restart, checkpoints, a point of the curve, generated answers, a saved model and a spectrum."""
    settings = ["method=remora", "task.eval_pairs=1", "training.record_spectrum=true", "training.log_every=1"]
    settings += [*STEPS, *RESTART]
    own = finished(on_accelerator(*settings))
    with monkeypatch.context() as patch:
        patch.delenv("ACCELERATE_TORCH_DEVICE")
        expected = finished(smoke(*settings, f"paths.results={tmp_path / 'cpu'}"))
    assert (own.provenance["device"], expected.provenance["device"]) == ("acc", "cpu")
    losses, of_cpu = ([row["loss"] for row in record.metrics["curve"]] for record in (own, expected))
    assert losses[:2] == pytest.approx(of_cpu[:2], rel=1e-5)
    # Adam divides a gradient by its size, so rounding decides about the updates of the smallest gradients.
    assert losses == pytest.approx(of_cpu, rel=5e-3)
    assert own.metrics["final"]["value_loss"] == pytest.approx(expected.metrics["final"]["value_loss"], rel=5e-3)
    for kind, values in expected.metrics["spectrum"].items():
        assert own.metrics["spectrum"][kind]["largest"] == pytest.approx(values["largest"], rel=5e-2)


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("fft", "transformers.trainer.Trainer._prepare_inputs"),  # the batch of a step
        ("mora method.operator=rotation", "mora.blocked.Blocked.tables"),
        ("remora", "mora.sharded.part"),  # the merge within the training
    ],
)
def test_a_tensor_planted_on_the_cpu_ends_a_training(method, fault, on_accelerator, tmp_path, monkeypatch):
    settings = [*f"method={method}".split(), *STEPS, *(RESTART if method == "remora" else ())]
    plant(fault, monkeypatch)
    with pytest.raises(RuntimeError, match=MIXED):
        trained(trainer_of(on_accelerator(*settings), tmp_path / "planted"))


def test_a_resumed_run_continues_the_random_numbers_of_the_device(on_accelerator, tmp_path, monkeypatch):
    """Dropout draws from the generator of the device. A checkpoint holds the state of that generator."""
    config = on_accelerator("method=mora", "method.dropout=0.3", *STEPS)
    whole = trained(trainer_of(config, tmp_path / "whole"))
    save = RunTrainer._save_checkpoint

    def save_and_stop(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            trained(trainer_of(config, tmp_path / "stopped"))
    assert equal(trained(trainer_of(config, tmp_path / "stopped")), whole)
    monkeypatch.setattr(RunTrainer, "_load_rng_state", lambda *args: None)
    (tmp_path / "stopped" / "checkpoint-4").rename(tmp_path / "later")
    assert not equal(trained(trainer_of(config, tmp_path / "stopped")), whole), "the test sees no random numbers"


def test_a_measurement_leaves_the_random_numbers_of_the_device(on_accelerator, tmp_path):
    """Points of the curve between the steps do not change the dropout of the steps."""
    config = on_accelerator("method=mora", "method.dropout=0.3", *STEPS, "training.evaluate_every=1")
    draws = []

    def measure() -> dict[str, float]:
        with evaluation_mode(trainer.network):
            draws.append(torch.rand(1, device=trainer.network.device).item())
        return {}

    trainer = trainer_of(config, tmp_path / "often", measure=measure)
    often = trained(trainer)
    assert len(set(draws)) == 4
    assert equal(trained(trainer_of(config, tmp_path / "never")), often)


class Steps(TrainerCallback):
    """What each step makes the CPU wait for: the operations between the end of a step and the end of the next step."""

    def __init__(self, waits: list[str]) -> None:
        self.waits, self.steps = waits, []

    def on_step_end(self, *args, **kwargs):
        self.steps.append(list(self.waits))
        self.waits.clear()


def waits_of_steps(config, lengths, folder) -> list[list[str]]:
    """What the steps make the CPU wait for, but for the first step and the last one: a training starts and saves."""
    trainer = trainer_of(config, folder, lengths)
    with synchronisations() as waits:
        steps = Steps(waits)
        trainer.add_callback(steps)
        training.train(trainer)
    return steps.steps[1:-1]


METHODS = ["fft", "lora", "dora", "mora method.operator=sharing", "mora method.operator=rotation method.dropout=0.1"]
UNDISTURBED = (*STEPS, "training.checkpoint_every=4")


@pytest.mark.parametrize(("method", "lengths"), [*((method, FULL) for method in METHODS), ("fft", PADDED)])
def test_a_step_waits_for_the_device_nowhere_but_in_transformers(method, lengths, on_accelerator, tmp_path):
    config = on_accelerator(*f"method={method}".split(), *UNDISTURBED, "training.log_every=4")
    steps = waits_of_steps(config, lengths, tmp_path)
    assert len(steps) == 2
    for waits in steps:
        assert [wait for wait in waits if OF_TRANSFORMERS not in wait] == []
        assert len(waits) == (2 if lengths == PADDED else 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_a_logged_step_waits_for(precision, on_accelerator, tmp_path):
    """The loss and the norm of the gradient are read. In fp16 each step also reads whether a gradient overflowed."""
    config = on_accelerator("method=mora", f"hardware.precision={precision}", *UNDISTURBED, "training.log_every=1")
    for waits in waits_of_steps(config, FULL, tmp_path):
        own = [wait for wait in waits if OF_TRANSFORMERS not in wait]
        assert len([wait for wait in own if "_maybe_log_save_evaluate" in wait]) == 2
        others = [wait for wait in own if "_maybe_log_save_evaluate" not in wait]
        assert len(others) == (1 if precision == "fp16" else 0), others
