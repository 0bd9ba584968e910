"""What a run would need, before it is run."""
