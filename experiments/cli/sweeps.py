"""What a sweep must not hold on to."""

from __future__ import annotations

from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback


class ForgetJobs(Callback):
    """Hydra keeps the result of every job until a sweep ends, with two copies of its configuration: 0.2 MB each."""

    def on_job_end(self, config: Any, job_return: JobReturn, **kwargs: Any) -> None:
        """Drop the copies. Sweepers read the returned value and the overrides alone."""
        job_return.cfg = job_return.hydra_cfg = None
