"""The errors that have an exit code of their own."""


class ConfigError(Exception):
    """A setting is wrong. The message is one line: what was wrong, where, and which values are allowed."""


class JobFailedError(Exception):
    """A job that was sent elsewhere did not end well; its own output says why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"a job ended with {self.code}: its output is below <results>/hydra/.submitit"
