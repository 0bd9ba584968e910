"""A finished run again: scored without training, or exported for others."""
