"""The run that is disturbed, and what happens to it at a chosen moment."""

import pkgutil

from ..processes import SMOKE, die

# Checkpoints at 2, 4, ... 12; merges at 4 and 8 lie on them.
RUN = ("method=remora", *SMOKE, "training.checkpoint_every=2")


def die_at(function: str, count: int) -> None:
    """Let the `count`-th call of module.function kill the process, before its work."""
    instead(function, count, die)


def instead(function: str, count: int, act) -> None:
    """Let `act` happen right before the `count`-th call of module.function."""
    where, _, name = function.rpartition(".")
    place, calls = pkgutil.resolve_name(where), [0]
    original = getattr(place, name)

    def acting(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            act()
        return original(*args, **kwargs)

    setattr(place, name, acting)


# The writes of a run, in order: module.function, and at which call of it.
WRITES = {
    "the lock": ("experiments.records.socket.gethostname", 1),
    "the first record": ("experiments.storage.write_json", 1),
    "the first checkpoint": ("experiments.training.Trainer._save_checkpoint", 1),
    "the second checkpoint": ("experiments.training.Trainer._save_checkpoint", 2),
    "the seal of the second checkpoint": ("experiments.checkpoints.seal", 2),
    "the trained model": ("experiments.training.RunTrainer.save_model", 7),
    "the last record": ("experiments.storage.write_json", 8),
}
