"""Data: pinned packages, the hub, a user's files; rows, windows, prompts, questions."""
