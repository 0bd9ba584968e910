"""The records of an offline .wandb file, parsed by wandb's own message classes.

wandb 0.31 has no reader for this file in Python any more (`wandb.sdk.internal.datastore` is gone; `wandb sync` reads it
in its binary), so its framing is undone here: LevelDB's log format behind a header of 7 bytes. Blocks of 32 KiB hold
chunks, each with a checksum (4 bytes), a length (2), and whether it is a whole record (1) or its first, middle or last
part (2, 3, 4).
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, CHUNK = 7, 32 * 1024, 7


def messages(path: Path) -> Iterator[Record]:
    """Every record, in the order in which it was written."""
    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + CHUNK <= len(data):
        if BLOCK - at % BLOCK < CHUNK:
            at += BLOCK - at % BLOCK  # too short for a chunk: padding
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + CHUNK])
        body = data[at + CHUNK : at + CHUNK + length]
        assert checksum == zlib.crc32(body, zlib.crc32(bytes([kind]))), "a damaged chunk"
        parts = body if kind in (1, 2) else parts + body
        at += CHUNK + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record
