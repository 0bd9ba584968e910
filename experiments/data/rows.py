"""Tokenised training rows, stored flat, and their cache on disk."""

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

if TYPE_CHECKING:
    from torch import Tensor


IGNORED = -100  # the label of a token on which no loss counts


FORMAT = 1  # part of the cache's file names: raise it when the way rows are built or stored changes


class Rows(Sequence[dict[str, Any]]):
    """Rows of different lengths in three arrays.

    Args:
        ids: Token ids of all rows, one after the other: (tokens,) int32.
        counted: Whether the loss counts on the token: (tokens,) bool.
        ends: Where each row ends in them: (rows,) int64.
    """

    def __init__(self, ids: np.ndarray, counted: np.ndarray, ends: np.ndarray) -> None:
        self.ids, self.counted, self.ends = ids, counted, ends

    @classmethod
    def of(cls, rows: Iterable[tuple[Any, Any]]) -> Rows:
        """From pairs of token ids and whether the loss counts on each."""
        ids, counted = [], []
        for i, c in rows:  # made small one by one: at paper scale a list of lists would not fit into memory
            ids.append(np.asarray(i, np.int32))
            counted.append(np.asarray(c, bool))
        ends = np.cumsum([len(i) for i in ids], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *ids]), np.concatenate([np.zeros(0, bool), *counted]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        """`input_ids` and `labels` of one row, or the `Rows` of a slice."""
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
    def lengths(self) -> np.ndarray:
        """Tokens of each row: (rows,)."""
        return np.diff(self.ends, prepend=0)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """What a tokenizer does to a text, as a hash; padding and truncation, which callers set in passing, left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        described: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        described = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    return fingerprint(described, tokenizer.bos_token_id, tokenizer.eos_token_id)


def fingerprint(*parts: Any) -> str:
    """A hash of values that JSON can hold: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        for item in part if isinstance(part, list) else [part]:  # a list of documents may be too long for one text
            digest.update(json.dumps(item, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
        digest.update(b"\1")
    return digest.hexdigest()[:16]


def cached(cache: Path, key: str, build: Callable[[], Rows]) -> Rows:
    """The rows of `key`, from the disk or built and stored there. `key` says all that the rows depend on."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    path = cache / "rows" / f"v{FORMAT}-{key}.safetensors"
    with contextlib.suppress(FileNotFoundError, SafetensorError):
        return Rows(**load_file(path))
    rows = build()
    if not len(rows):
        return rows
    try:
        with files.new_file(path) as temporary:
            save_file({"ids": rows.ids, "counted": rows.counted, "ends": rows.ends}, temporary)
    except OSError as error:
        print(f"warning: tokenised rows are not kept in {path.parent}: {error.strerror}", file=sys.stderr)
    return rows


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of `input_ids` and `labels`, each (length,) -> one batch (rows, longest), padded on the right.

    The pad id is irrelevant: padding is masked out of the attention and carries no loss.
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
