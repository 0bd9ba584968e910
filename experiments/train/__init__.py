"""Training: a model with its adapters, the Trainer, checkpoints, several processes."""
