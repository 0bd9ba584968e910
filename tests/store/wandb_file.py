"""The records of an offline .wandb file, parsed by wandb's own message classes.

wandb 0.31 has no Python code that reads this file: `wandb.sdk.internal.datastore` is gone, and `wandb sync` reads the
file in a binary program. So this module reads the frames of the file: a header of 7 bytes, then LevelDB's log format.
Blocks of 32 KiB hold chunks. A chunk begins with a checksum (4 bytes), a length (2 bytes) and a kind (1 byte): a whole
record (1), or the first, a middle or the last part of a record (2, 3, 4).
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, CHUNK = 7, 32 * 1024, 7


def messages(path: Path) -> Iterator[Record]:
    """Every record, in the order in which it was written."""
    data, offset, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while offset + CHUNK <= len(data):
        if BLOCK - offset % BLOCK < CHUNK:
            offset += BLOCK - offset % BLOCK  # the rest of the block is too short for a chunk, and is padding
            continue
        checksum, length, kind = struct.unpack("<IHB", data[offset : offset + CHUNK])
        body = data[offset + CHUNK : offset + CHUNK + length]
        assert checksum == zlib.crc32(body, zlib.crc32(bytes([kind]))), "a damaged chunk"
        parts = body if kind in (1, 2) else parts + body
        offset += CHUNK + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record
