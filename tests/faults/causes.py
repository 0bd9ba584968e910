"""The run that is disturbed, and what happens to it at a chosen moment."""

from ..processes import SMOKE, at_call, die

# Checkpoints at 2, 4, ... 12; merges at 4 and 8 lie on them.
RUN = ("method=remora", *SMOKE, "training.checkpoint_every=2")


def die_at(function: str, count: int) -> None:
    """Let the `count`-th call of module.function kill the process, before its work."""
    at_call(function, count, die)


# The writes of a run, in order: module.function, and at which call of it.
WRITES = {
    "the lock": ("experiments.store.records.socket.gethostname", 1),
    "the first record": ("experiments.files.write_json", 1),
    "the first checkpoint": ("experiments.train.trainer.Trainer._save_checkpoint", 1),
    "the second checkpoint": ("experiments.train.trainer.Trainer._save_checkpoint", 2),
    "the seal of the second checkpoint": ("experiments.train.checkpoints.seal", 2),
    "the trained model": ("experiments.train.trainer.RunTrainer.save_model", 7),
    "the last record": ("experiments.files.write_json", 8),
}
