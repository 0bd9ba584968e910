"""The transformers Trainer, assembled: optimizer groups, schedule, the curve, checkpoints that are whole or absent."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch import Tensor
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed as set_seed

from mora import schedules

from .callbacks import Curve, Measure
from .config import RunConfig
from .hardware import Placement
from .interruption import StopWithCheckpoint
from .methods import Adapted
from .restarts import Restarts
from .tasks.base import IGNORED


def quiet() -> None:
    """Keep the libraries' own bars and notices out of the way of ours."""
    transformers.utils.logging.disable_progress_bar()
    # PEFT reads an attribute that transformers has renamed.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of `input_ids` and `labels`, each (length,) -> one batch (rows, longest), padded on the right.

    The pad id is irrelevant: padding is masked out of the attention and carries no loss.
    """
    batch = {
        "input_ids": torch.nn.utils.rnn.pad_sequence([r["input_ids"] for r in rows], batch_first=True),
        "labels": torch.nn.utils.rnn.pad_sequence([r["labels"] for r in rows], True, padding_value=IGNORED),
    }
    lengths = torch.tensor([len(r["input_ids"]) for r in rows])
    longest = batch["input_ids"].shape[1]
    if int(lengths.min()) < longest:
        batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


def schedule(config: RunConfig) -> Callable[[int], float]:
    """Step -> what the learning rate is multiplied by: a pure function, so a resumed run needs no other state."""
    t, m = config.training, config.method
    common: dict[str, Any] = {"steps": t.steps, "warmup": t.warmup_steps, "shape": t.schedule}
    if not m.restart_every or m.restart_schedule == "plain":
        return lambda step: schedules.plain(step, **common)
    common |= {"every": m.restart_every, "rewarm": m.restart_warmup}
    if m.restart_schedule == "official_lifted":
        return lambda step: schedules.official_lifted(step, **common)
    return lambda step: schedules.jagged(step, **common, floor=m.restart_floor or 0.0)


class RunTrainer(Trainer):
    """Trainer with the run's parameter groups and schedule, and with checkpoints that appear whole."""

    def __init__(self, config: RunConfig, adapted: Adapted, **kwargs: Any) -> None:
        super().__init__(model=adapted.model, **kwargs)
        self.folder = Path(self.args.output_dir or "")
        self.config, self.rates = config, adapted.rates
        self.restarts = Restarts(adapted.model, config) if isinstance(adapted.model, PeftModel) else None
        self.interruption = StopWithCheckpoint(config)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            t = self.config.training
            groups: dict[float, list[torch.nn.Parameter]] = {}
            for name, parameter in (self.model if model is None else model).named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(self.rates.get(name, 1.0), []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [{"params": p, "lr": t.learning_rate * rate} for rate, p in sorted(groups.items())],
                lr=t.learning_rate,
                weight_decay=t.weight_decay,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            assert self.optimizer is not None
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, schedule(self.config))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: Any) -> int:
        """Not used; the original walks over all parameters at every step."""
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.restarts:
            self.restarts.save(Path(output_dir) if output_dir else self.folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.restarts:
            self.restarts.load(Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Written aside and renamed: a checkpoint folder that can be seen is complete.
        final = self.folder
        staging = final / "incomplete"
        shutil.rmtree(staging, ignore_errors=True)
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(final)
        (folder,) = staging.iterdir()
        sync(folder)
        shutil.rmtree(final / folder.name, ignore_errors=True)
        os.rename(folder, final / folder.name)
        staging.rmdir()
        for old in checkpoints(final)[: -self.config.training.keep_checkpoints]:
            shutil.rmtree(old)


def sync(folder: Path) -> None:
    """Flush every file below `folder` to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def build(
    adapted: Adapted,
    train: Sequence[dict[str, Tensor]],
    measure: Measure,
    config: RunConfig,
    placement: Placement,
    folder: Path,
) -> RunTrainer:
    """The trainer of one run; `folder` receives its checkpoints."""
    t, micro = config.training, config.hardware.device_batch_size or config.training.batch_size
    micro = min(micro, t.batch_size)
    set_seed(config.seed)
    if config.hardware.activation_checkpointing:
        # Without it no gradient would flow into a checkpointed block whose inputs are all frozen.
        adapted.model.enable_input_require_grads()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=t.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=t.batch_size // micro,
        max_grad_norm=t.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=placement.device == "cpu",
        bf16=placement.precision == "bf16" and placement.device != "cpu",
        fp16=placement.precision == "fp16",
        activation_checkpointing=config.hardware.activation_checkpointing,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=placement.device != "cpu",
    )
    trainer = RunTrainer(config=config, adapted=adapted, args=arguments, train_dataset=train, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    # In this order: a point of the curve is the model as the optimizer left it, then comes a merge, then what saves.
    for callback in (Curve(adapted.model, measure, config), trainer.restarts, trainer.interruption):
        if callback:
            trainer.add_callback(callback)
    return trainer


def train(trainer: RunTrainer) -> TrainerState:
    """Train from the newest checkpoint, or from the start where there is none."""
    kept = checkpoints(trainer.folder)
    with trainer.interruption.listening():
        trainer.train(resume_from_checkpoint=str(kept[-1]) if kept else None)
    return trainer.state


def save(trainer: RunTrainer, folder: Path) -> None:
    """Save what was trained (the adapter, or the whole model) to `folder`, which appears complete or not at all."""
    staging = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(staging, ignore_errors=True)
    trainer.save_model(str(staging))
    sync(staging)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(staging, folder)
