"""The run that the tests disturb, and how they disturb it at a chosen moment."""

from ..processes import SMOKE, at_call, die

# Checkpoints at the steps 2, 4, ... 12; merges at the steps 4 and 8.
RUN = ("method=remora", *SMOKE, "training.checkpoint_every=2")


def die_at(function: str, count: int) -> None:
    """Kill the process at the `count`-th call of module.function, before the function does anything."""
    at_call(function, count, die)


# The writes of a run, in order: a function, and the number of the call that begins this write.
WRITES = {
    "the lock": ("experiments.store.records.socket.gethostname", 1),
    "the first record": ("experiments.files.write_json", 1),
    "the first checkpoint": ("experiments.train.trainer.Trainer._save_checkpoint", 1),
    "the second checkpoint": ("experiments.train.trainer.Trainer._save_checkpoint", 2),
    "the seal of the second checkpoint": ("experiments.train.checkpoints.seal", 2),
    "the trained model": ("experiments.train.trainer.RunTrainer.save_model", 7),
    "the last record": ("experiments.files.write_json", 8),
}
