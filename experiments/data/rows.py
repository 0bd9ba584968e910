"""Tokenised rows: their form in memory, their cache on the disk, and the batch that is made of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..errors import ConfigError, without_path

if TYPE_CHECKING:
    from torch import Tensor


IGNORED = -100  # the label of a token on which no loss counts
FORMAT = 2  # part of the names of the cache's files: raise it when rows are built or stored in another way


class Rows(Sequence[dict[str, Any]]):
    """Rows of different lengths, stored in three arrays.

    Args:
        ids: The token ids of all rows, one row after the other: (tokens,) int32.
        counted: Whether the loss counts on each token: (tokens,) bool.
        ends: The position in `ids` behind the last token of each row: (rows,) int64.
    """

    def __init__(self, ids: np.ndarray, counted: np.ndarray, ends: np.ndarray) -> None:
        self.ids, self.counted, self.ends = ids, counted, ends

    @classmethod
    def of(cls, rows: Iterable[tuple[Any, Any]]) -> Rows:
        """The rows of pairs: token ids, and whether the loss counts on each token."""
        ids, counted = [], []
        for row_ids, row_counted in rows:  # at paper scale lists of Python numbers would not fit into memory
            ids.append(np.asarray(row_ids, np.int32))
            counted.append(np.asarray(row_counted, bool))
        ends = np.cumsum([len(i) for i in ids], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *ids]), np.concatenate([np.zeros(0, bool), *counted]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        """The `input_ids` and `labels` of a row, or the `Rows` of a slice."""
        import torch

        if isinstance(index, slice):
            return Rows.of(self._span(i) for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        ids, counted = self._span(index % len(self))
        input_ids = torch.from_numpy(ids.astype(np.int64))
        return {"input_ids": input_ids, "labels": input_ids.masked_fill(~torch.from_numpy(counted.copy()), IGNORED)}

    def _span(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        first, last = self.ends[index - 1] if index else 0, self.ends[index]
        return self.ids[first:last], self.counted[first:last]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The three arrays by name."""
        return {"ids": self.ids, "counted": self.counted, "ends": self.ends}

    @property
    def sum(self) -> str:
        """The sha256 of the three arrays."""
        digest = hashlib.sha256()
        for name, array in self.arrays.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each row: (rows,)."""
        return np.diff(self.ends, prepend=0)


def end_token(tokenizer: Any) -> str:
    """The end token of a tokenizer.

    Raises:
        ConfigError: The tokenizer has none.
    """
    if tokenizer.eos_token is None or tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer of this model has no end token, which closes an answer or a document of this task; "
            "allowed: a model whose tokenizer_config.json names an eos_token"
        )
    return str(tokenizer.eos_token)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what a tokenizer does to a text. Padding and truncation, which any caller may set, do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        content = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    return fingerprint(content, tokenizer.bos_token_id, tokenizer.eos_token_id)


def fingerprint(*parts: Any) -> str:
    """A hash of values that JSON can express: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        for item in part if isinstance(part, list) else [part]:  # all documents of a list may not fit into one text
            digest.update(json.dumps(item, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
        digest.update(b"\1")
    return digest.hexdigest()[:16]


def cached(cache: Path, key: str, build: Callable[[], Rows]) -> Rows:
    """The rows of a key: read from the disk, or built and stored there. The key covers all that the rows depend on.

    The file holds the sum of its rows. Rows that are damaged are built again.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = cache / "rows" / f"v{FORMAT}-{key}.safetensors"
    with contextlib.suppress(FileNotFoundError):
        if (stored := _stored(path)) is not None:
            return stored
        print(f"warning: {path} is damaged; the rows are tokenised again", file=sys.stderr)
    rows = build()
    if not len(rows):
        return rows
    try:
        with files.new_file(path) as temporary:
            save_file(rows.arrays, temporary, {"sha256": rows.sum})
    except (OSError, SafetensorError) as error:  # safetensors raises its own error for a full disk
        print(f"warning: tokenised rows are not kept in {path.parent}: {without_path(error)}", file=sys.stderr)
    return rows


def _stored(path: Path) -> Rows | None:
    """The rows in a file of the cache; None where the file is damaged.

    Raises:
        FileNotFoundError: There is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            rows = Rows(*(file.get_tensor(name) for name in ("ids", "counted", "ends")))
            return rows if rows.sum == (file.metadata() or {}).get("sha256") else None
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError):
        return None


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Make a batch (rows, longest) of rows of `input_ids` and `labels`, each (length,), padded on the right.

    Any pad id will do: the attention mask hides the padding, and no loss counts on it.
    """
    import torch

    batch = {
        "input_ids": torch.nn.utils.rnn.pad_sequence([r["input_ids"] for r in rows], batch_first=True),
        "labels": torch.nn.utils.rnn.pad_sequence([r["labels"] for r in rows], True, padding_value=IGNORED),
    }
    lengths = torch.tensor([len(r["input_ids"]) for r in rows])
    longest = batch["input_ids"].shape[1]
    if int(lengths.min()) < longest:
        batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch
