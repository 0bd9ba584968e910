"""Restarts within a run: when they happen, and what of them goes into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState

from mora import checkpoint, restart

from ..errors import ConfigError
from ..spec import ranks
from ..spec.run_config import RunConfig


def inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that holds the state: accelerate wraps it."""
    return getattr(optimizer, "optimizer", optimizer)


class Restarts(TrainerCallback):
    """Every `restart_every` steps: merge, start the adapter anew, clear the optimizer's state. Not after the last step.

    The Trainer calls it after the optimizer and the schedule have stepped and before the step is saved, so a
    checkpoint of that step holds the merged model, whole.
    """

    def __init__(self, model: PeftModel, config: RunConfig) -> None:
        self.model, self.config = model, config
        self.updates: list[restart.Update] = []
        self.cycle = restart.FOUR_GROUPINGS if config.method.groupings == "four" else restart.TWO_GROUPINGS
        if config.method.restart_every:
            try:
                restart.check(model)
            except ValueError as error:
                raise ConfigError(f"method={config.method.name}: {error}") from error

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        if self.config.method.restart_every:
            restart.check_optimizer(inner(optimizer))

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        m = self.config.method
        if not m.restart_every or state.global_step % m.restart_every:
            return
        if state.global_step >= self.config.training.steps:
            return
        assert m.optimizer_reset and m.reset_ratio
        with ranks.same_randomness():
            self.updates += restart.restart(self.model, cycle=self.cycle)
            everything, prefix = m.reset_scope == "all", self.model.base_model.prefix
            chosen = [p for name, p in self.model.named_parameters() if everything or prefix in name]
            restart.reset_optimizer(inner(optimizer), chosen, m.optimizer_reset, m.reset_ratio)

    def save(self, folder: Path) -> None:
        """Add to a saved adapter the base weights that restarts or pretraining changed, and the grouping in force."""
        if ranks.first():
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "adapter_config.json").is_file():  # a checkpoint that ranks write in parts has none
                self.model.peft_config["default"].save_pretrained(str(folder))
        checkpoint.save_base(self.model, self.updates, folder, write=ranks.first())

    def load(self, folder: Path) -> None:
        """Bring the base weights, and the grouping in force, to those of a saved adapter. The adapter is not read."""
        self.updates = checkpoint.load_base(self.model, folder)
        saved = PeftConfig.from_pretrained(str(folder))
        if self.config.method.restart_every and hasattr(saved, "in_groups"):
            restart.regroup(self.model, saved.in_groups, saved.out_groups)
