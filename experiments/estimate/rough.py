"""What a run costs, known in microseconds and without torch: a lower estimate, by the weights of the base model alone.

`dry_run` traces the model, and so counts attention and what the method adds too.
"""

from __future__ import annotations

from .. import tasks
from ..spec import shapes
from ..spec.run_config import RunConfig
from .cards import CARDS, UTILISATION

CARD = "A100 80 GB"
# FLOPs a parameter and token, by whether the weights themselves train: 2 forward, 2 for the gradients of the inputs,
# and 2 for the gradients of weights that train.
FLOPS = {False: 4, True: 6}


def flops(config: RunConfig) -> float | None:
    """The FLOPs of training, roughly: without attention, and without what a method adds, so they are too few.

    None where the shape of the model is not known or nothing trains.
    """
    shape = shapes.at_hand(config.model, config.paths.cache_folder)
    if shape is None or not config.method.trains:
        return None
    tokens = config.training.steps * config.training.batch_size * tasks.of(config).row_tokens(config)
    return FLOPS[config.method.peft is None] * float(shape.parameters) * tokens


def seconds_on_card(flops: float) -> float:
    """The seconds that `CARD` takes for so many FLOPs in bf16, at the utilisation that the dry run assumes."""
    speed = CARDS[CARD].bf16
    assert speed is not None
    return flops / (speed * 1e12 * UTILISATION)
