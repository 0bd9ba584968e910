"""The one error that a user's input may cause."""


class ConfigError(Exception):
    """A setting is wrong. The message is one line: what was wrong, where, and which values are allowed."""
