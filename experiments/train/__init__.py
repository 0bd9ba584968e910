"""Training: models and adapters, the Trainer and its callbacks, checkpoints, several ranks, cost."""
