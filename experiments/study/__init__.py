"""Cells at a scale: which runs fill them, what is missing, what is said of their numbers."""
