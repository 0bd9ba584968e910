"""The harness: from a configuration to a record, and from records to tables. Start reading at `runner.py`.

runner.py    one run: load, prepare, adapt, train, measure, save
identity.py  the configuration of a run -> its key, its cell, its name
spec/        the configuration: its parts, its checks, `auto` on this machine, shapes of models, ranks
data/        data files and where they come from, prompts, questions, tokenised rows
measure/     loss and perplexity, lm-eval, scores of answers, the spectrum of an update
tasks/       one file for each task: what to train on, where the loss counts, what to measure
train/       models and adapters, the Trainer and its callbacks, checkpoints, several ranks, cost
store/       records, failures and signs of life of runs, provenance, the mirror on W&B
paper/       the published numbers, and which run stands for which of them
study/       the cells of a table: which are finished, which are missing, what to run next
report/      tables, figures, claims and the HTML page, from records
reuse/       a finished run again: score the saved model, export it
estimate/    the memory and the time that a run would need
cli/         the command line of run.py and of the scripts
files.py     files and folders that appear whole or not at all; locks
user_code.py Python files of a user, run where the command line names them
errors.py    the errors of a user or of a machine, each with a message of one line
redact.py    hides keys and tokens in everything that is printed or written

A folder imports only from the folders below it: cli > reuse, estimate, runner > report > study | train > store > paper,
identity > tasks > measure > data > spec > user_code > files > errors, redact.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

# PEFT imports bitsandbytes if it is installed. bitsandbytes then warns of an optional kernel, and of every rounding.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def frame(results: str | Path = "results") -> DataFrame:
    """All records of a results folder as a pandas DataFrame, a row a record: `store/frames.py` names the columns.

    Raises:
        ConfigError: `results` is not a folder that can be read.
    """
    from .store import frames  # here: run.py needs no pandas, and an error of a user's setting must come fast

    return frames.frame(results)
