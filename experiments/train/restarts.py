"""Restarts within a run: at which steps the adapter is merged and started anew, and what a checkpoint adds for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import CONFIG_NAME
from transformers import TrainerCallback, TrainerControl, TrainerState

from mora import checkpoint, restart

from ..errors import ConfigError
from ..spec import ranks
from ..spec.run_config import RunConfig


class Restarts(TrainerCallback):
    """Every `restart_every` steps: merge, start the adapter anew, reset the optimizer's state. Not after the last step.

    The Trainer calls this after the step of the optimizer and of the schedule, and before it saves a checkpoint. A
    checkpoint of such a step therefore holds the whole merged model.

    Raises:
        ConfigError: The adapter or the base model cannot be restarted.
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
            restart.check_optimizer(optimizer)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        m = self.config.method
        if not m.restart_every or state.global_step % m.restart_every:
            return
        t = self.config.training
        if not (t.warm_start_steps or 0) <= state.global_step < t.steps:
            return
        assert m.optimizer_reset and m.reset_ratio
        with ranks.same_randomness():
            updates = restart.restart(self.model, cycle=self.cycle)
            self.updates = checkpoint.shortened(self.model, [*self.updates, *updates])
            prefix = "" if m.reset_scope == "all" else self.model.base_model.prefix
            parameters = [p for name, p in self.model.named_parameters() if prefix in name]
            restart.reset_optimizer(optimizer, parameters, m.optimizer_reset, m.reset_ratio)

    def save(self, folder: Path) -> None:
        """Add to a saved adapter the base weights that restarts or pretraining changed, and the current grouping."""
        if ranks.first():
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / CONFIG_NAME).is_file():  # a sharded checkpoint of accelerate lacks this file
                self.model.peft_config["default"].save_pretrained(str(folder))
        trained = bool(self.config.training.warm_start_steps)
        checkpoint.save_base(self.model, self.updates, folder, write=ranks.first(), trained=trained)

    def load(self, folder: Path) -> None:
        """Load the base weights and the grouping of a saved adapter into the model, but not the adapter itself."""
        self.updates = checkpoint.load_base(self.model, folder)
