"""Training in bf16 and fp16 against float32, for each method: autocast, the gradient scaler, float32 adapters.

On a CPU bf16 is the format of the base weights, without autocast. On an accelerator autocast computes in the format
too, and fp16 needs the gradient scaler: the pretend accelerator takes this path with the CPU's arithmetic. The bounds
are in docs/footguns.md.
"""

from typing import NamedTuple

import pytest
import torch
from transformers import TrainerCallback

from experiments.data.rows import Rows
from experiments.measure.evaluation import Loss
from experiments.spec import methods
from experiments.train import trainer as training
from experiments.train.trainer import RunTrainer

from ..train.test_all_methods import expected_warnings
from .test_runs import trainer_of

# Rates at which six steps learn something, and at which rounding does not decide what they learn.
RATES = {
    "adalora": 0.1,
    "c3a": 0.1,
    "delora": 0.002,
    "hira": 0.03,
    "loha": 0.03,
    "lokr": 0.1,
    "vera": 0.1,
    "waveft": 0.003,
}
# FourierFT sums over a whole layer for each number that it trains, which rounds more.
GRADIENTS = {("fourierft", "bf16"): 0.1, ("fourierft", "fp16"): 0.02}
# The first scales of the gradient scaler at which these fit in fp16. Six steps are too few to come down to them:
# RandLoRA would skip all, and AdaLoRA the first.
SCALES = {"adalora": 2.0**10, "randlora": 2.0**6}
STEPS = ("training.steps=6", "training.batch_size=4", "training.evaluate_every=6", "training.checkpoint_every=6")
LENGTHS = (12, 10, 12, 8, 12, 11, 9, 12)
MEASURED = Rows.of([(range(3, 3 + n), [True] * n) for n in LENGTHS])
TRAINED = [name for name in methods.names() if name != "none"]
# What these do, torch allows on a CPU and on CUDA only: data of another device in a parameter, sparse tensors, and
# transposed convolutions.
NOT_ON_THE_ACCELERATOR = ("pissa", "shira", "waveft")
OVERFLOWING = ("delora",)  # divides by 1e-4 while its B is zero, which is too much for fp16
RESTARTED = ("relora", "remora")  # their base weights change, so these are float32; they refuse fp16
RESTARTS = ("method.restart_every=3", "method.restart_warmup=1")
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Bounds(NamedTuple):
    """How far a number format may be from float32.

    Attributes:
        loss: The loss before training, as a share of the loss.
        gradient: The first gradient of all that trains: the norm of the difference, as a share of the norm.
        learned: What training takes off the loss, as a share.
    """

    loss: float
    gradient: float
    learned: float


BOUNDS = {"bf16": Bounds(0.005, 0.05, 0.05), "fp16": Bounds(0.0005, 0.01, 0.05)}


def settings(method: str, precision: str) -> list[str]:
    restarts = RESTARTS if method in RESTARTED else ()
    rate = [f"training.learning_rate={RATES[method]}"] if method in RATES else []
    return [f"method={method}", f"hardware.precision={precision}", *STEPS, *restarts, *rate]


def gradient_of(trainer: RunTrainer) -> torch.Tensor:
    """The gradient of a batch with respect to all that trains, as one vector."""
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
    trainer.network.train()
    torch.manual_seed(0)  # dropout
    with trainer.accelerator.autocast():
        trainer.network(**batch).loss.backward()
    parts = [p.grad.float().cpu().flatten() for p in trainer.network.parameters() if p.grad is not None]
    trainer.network.zero_grad()
    return torch.cat(parts)


def loss_of(trainer: RunTrainer) -> float:
    return Loss.of(trainer.network, MEASURED).mean


class Start(NamedTuple):
    """A model before training: its loss, and its first gradient."""

    loss: float
    gradient: torch.Tensor

    @classmethod
    def of(cls, trainer: RunTrainer) -> "Start":
        return cls(loss_of(trainer), gradient_of(trainer))


def check_start(trainer: RunTrainer, reference: Start, precision: str) -> None:
    """The formats of the weights, the loss and the gradient before training."""
    bounds, own = BOUNDS[precision], Start.of(trainer)
    gradient = GRADIENTS.get((trainer.config.method.name, precision), bounds.gradient)
    # A single frozen number is a constant of an adapter.
    frozen = {p.dtype for p in trainer.network.parameters() if not p.requires_grad and p.numel() > 1}
    restarted = trainer.config.method.name in RESTARTED
    assert frozen <= {torch.float32 if restarted else FORMATS[precision]}  # full training has no frozen weights
    assert {p.dtype for p in trainer.network.parameters() if p.requires_grad} == {torch.float32}
    assert own.loss == pytest.approx(reference.loss, rel=bounds.loss)
    assert (own.gradient - reference.gradient).norm() / reference.gradient.norm() < gradient


def learned(trainer: RunTrainer) -> float:
    """What training takes off the loss."""
    before = loss_of(trainer)
    training.train(trainer)
    return before - loss_of(trainer)


@pytest.fixture
def trainer(on_accelerator, smoke, tmp_path, monkeypatch):
    """Gives a trainer by method, place and number format. accelerate has one device at a time: that of the newest."""

    def make(method: str, place: str, precision: str) -> RunTrainer:
        folder = tmp_path / f"{place}-{precision}"
        if place == "accelerator":
            return trainer_of(on_accelerator(*settings(method, precision)), folder, LENGTHS)
        with monkeypatch.context() as patch:
            patch.delenv("ACCELERATE_TORCH_DEVICE")
            return trainer_of(smoke(*settings(method, precision)), folder, LENGTHS)

    return make


PLACES = [("cpu", "bf16"), ("accelerator", "bf16"), ("accelerator", "fp16")]
CASES = [
    (method, place, precision)
    for method in TRAINED
    for place, precision in PLACES
    if not (place == "accelerator" and method in NOT_ON_THE_ACCELERATOR)
    and not (precision == "fp16" and method in (*OVERFLOWING, *RESTARTED))
]


@pytest.mark.parametrize(("place", "precision"), PLACES)
@pytest.mark.parametrize("method", ["lora", "mora"])
def test_the_first_gradient_is_that_of_float32(method, place, precision, trainer):
    reference = Start.of(trainer(method, "cpu", "fp32"))
    check_start(trainer(method, place, precision), reference, precision)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@expected_warnings
@pytest.mark.parametrize(("method", "place", "precision"), CASES)
def test_training_learns_what_float32_learns(method, place, precision, trainer):
    in_float32 = trainer(method, "cpu", "fp32")
    reference, expected = Start.of(in_float32), learned(in_float32)
    own = trainer(method, place, precision)
    check_start(own, reference, precision)
    if precision == "fp16" and method in SCALES:
        own.accelerator.scaler._init_scale = SCALES[method]
    seen: set[torch.dtype] = set()
    layer = next(module for name, module in own.network.named_modules() if name.endswith("lm_head"))
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype) if module.training else None)
    assert expected > 0.5, "the reference has learned too little"
    assert learned(own) == pytest.approx(expected, rel=BOUNDS[precision].learned)
    # On a CPU there is no autocast: where the base weights are float32, so is the computation.
    stays_float32 = place == "cpu" and method in ("fft", *RESTARTED)
    assert seen == {torch.float32 if stays_float32 else FORMATS[precision]}
    states = own.optimizer.optimizer.state.values()
    assert {state[name].dtype for state in states for name in ("exp_avg", "exp_avg_sq")} == {torch.float32}


@pytest.mark.parametrize("method", OVERFLOWING)
def test_a_method_that_overflows_in_fp16_ends_as_diverged(method, trainer):
    with pytest.raises(FloatingPointError, match=r"diverged at step \d: the loss is nan"):
        training.train(trainer(method, "accelerator", "fp16"))


def test_the_gradient_scaler_skips_a_step_that_overflows(on_accelerator, tmp_path):
    trainer = trainer_of(on_accelerator(*settings("mora", "fp16")), tmp_path, LENGTHS)
    trainer.accelerator.scaler._init_scale = 2.0**20
    skipped, adapters = [], []

    class Skipped(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            skipped.append(trainer.accelerator.optimizer_step_was_skipped)
            adapters.append(
                torch.cat([p.detach().cpu().flatten() for p in trainer.network.parameters() if p.requires_grad])
            )

    trainer.add_callback(Skipped())
    training.train(trainer)
    assert skipped[0]
    assert not skipped[-1]
    assert trainer.accelerator.scaler.get_scale() == 2.0 ** (20 - sum(skipped))
    assert not adapters[0].any()  # M starts at zero
    assert adapters[-1].any()
    assert adapters[-1].isfinite().all()
