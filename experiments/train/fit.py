"""Whether a model, its tokenizer and the data of a task fit together. What does not fit is found before the training.

On a GPU a token without a row in the embedding, or a position without an entry, is an assertion of the device, which
names neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import tasks
from ..data.rows import Rows
from ..errors import ConfigError
from ..spec import checks, skeletons
from ..spec.run_config import RunConfig
from ..spec.shapes import Shape
from ..tasks import TaskData


def model(config: RunConfig) -> Shape:
    """The shape of the run's model, checked against the settings before any weight is loaded.

    Raises:
        ConfigError: transformers cannot build the model, a target is no layer of the model, the rank is too large for
            a layer, or a sequence of the task may be longer than the model's longest sequence.
    """
    shape = skeletons.shape_of(config.model, config.paths.cache_folder)
    checks.adapters(config, shape)
    tokens, length = tasks.of(config).sequence_tokens(config), config.task.max_length
    if shape.positions is not None and tokens > shape.positions:
        room = shape.positions - (tokens - length) if length else 0
        raise ConfigError(
            f"model {config.model} takes sequences of at most {shape.positions:,} tokens, and task={config.task.name} "
            f"has sequences of up to {tokens:,}; allowed: "
            + (f"task.max_length up to {room}" if room > 1 else "a model that takes so many")
        )
    return shape


def tokenizer(config: RunConfig, tokenizer: Any, shape: Shape) -> None:
    """Check that each token that a text can have has a row in the embedding.

    Special tokens that stand in no ordinary text are not looked at: models such as Gemma 3 have such a token without a
    row. `data` finds them where they do occur.

    Raises:
        ConfigError: A token has no row.
    """
    added = tokenizer.added_tokens_decoder
    ids = {i for i in tokenizer.get_vocab().values() if not (i in added and added[i].special)}
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    _has_rows(max(ids | {i for i in named if i is not None}), config, tokenizer, shape)


def data(config: RunConfig, prepared: TaskData, tokenizer: Any, shape: Shape) -> None:
    """Check the rows that train and that are measured. Streamed rows are not looked at.

    Raises:
        ConfigError: A token has no row in the embedding, or a row is longer than the model's longest sequence.
    """
    for largest, longest in _extremes(prepared):
        _has_rows(largest, config, tokenizer, shape)
        if shape.positions is not None and longest > shape.positions:
            raise ConfigError(
                f"model {config.model} takes sequences of at most {shape.positions:,} tokens, and a row of "
                f"task={config.task.name} has {longest:,}; allowed: a model that takes so many"
            )


def _has_rows(largest: int, config: RunConfig, tokenizer: Any, shape: Shape) -> None:
    if largest >= shape.vocabulary:
        raise ConfigError(
            f"model {config.model}: the embedding has {shape.vocabulary:,} rows, and the tokenizer gives "
            f"{tokenizer.convert_ids_to_tokens(largest)!r} the id {largest:,}; "
            "allowed: the tokenizer that belongs to the model, or a model with a row for each token"
        )


def _extremes(prepared: TaskData) -> Iterator[tuple[int, int]]:
    """(The largest token id, the tokens of the longest row) of each set of rows."""
    for rows in (prepared.train, *getattr(prepared.evaluation, "__dict__", {}).values()):
        if isinstance(rows, Rows) and len(rows):
            yield int(rows.ids.max()), int(rows.lengths.max())
        elif rows is prepared.train and isinstance(rows, list):
            yield max(int(row["input_ids"].max()) for row in rows), max(len(row["input_ids"]) for row in rows)
