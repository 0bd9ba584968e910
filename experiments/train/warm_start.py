"""The warm start of ReLoRA (arXiv 2307.05695): before the adapters train, the model trains as without adapters."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from mora.restart import innermost_optimizer

from ..spec.run_config import RunConfig


class WarmStart(TrainerCallback):
    """Trains the adapted weights for `training.warm_start_steps` steps, and only then the adapters.

    In these steps the adapters keep the values with which they start. After them the adapted weights are frozen, and
    the optimizer forgets its state of these weights. What trains beside the adapters trains all the time.

    Attributes:
        weights: The weights that train in these steps only; none without a warm start.
    """

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        self.steps = config.training.warm_start_steps or 0
        prefix = model.base_model.prefix if isinstance(model, PeftModel) else ""
        named = [*model.named_parameters()] if self.steps else []
        self.weights = [p for _, p in named if not p.requires_grad]
        self.adapters = [p for name, p in named if p.requires_grad and prefix in name]

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self._set(state.global_step < self.steps, optimizer)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step == self.steps:
            self._set(False, optimizer)

    def _set(self, warm: bool, optimizer: Any) -> None:
        for parameters, trains in ((self.weights, warm), (self.adapters, not warm)):
            for parameter in parameters:
                parameter.requires_grad_(trains)
                if not trains:  # an optimizer leaves out what has no gradient
                    parameter.grad = None
                    innermost_optimizer(optimizer).state.pop(parameter, None)
