"""Checkpoints: a folder is sealed with the sums of its files when it is written, and checked before it is used.

A crash cannot leave half a checkpoint (it is written aside and renamed), but disks and file systems can: files that
come back empty, cut off, or as other bytes. Such a checkpoint is named and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from .. import files

SEAL = "sums.json"


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    paths = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(paths, key=step)


def step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def seal(checkpoint: Path) -> None:
    """Flush every file of a checkpoint to the disk, and add their sums."""
    files.flush_all(checkpoint)
    paths = (p for p in sorted(checkpoint.rglob("*")) if p.is_file())
    files.write_json(checkpoint / SEAL, {str(p.relative_to(checkpoint)): _sum(p) for p in paths})


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None where every file is what was written."""
    try:
        sums = json.loads((checkpoint / SEAL).read_bytes())
    except (OSError, ValueError):
        return f"{SEAL} is missing or unreadable"
    if not isinstance(sums, dict):
        return f"{SEAL} holds no sums"
    for name, expected in sums.items():
        try:
            if _sum(checkpoint / name) != expected:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are named. None: the run starts from the beginning."""
    paths = found(folder)
    for path in reversed(paths):
        wrong = damage(path)
        if wrong is None:
            return path
        print(f"warning: checkpoint {path} is damaged and is not used: {wrong}", file=sys.stderr)
    if paths:
        print(f"warning: no checkpoint in {folder} can be used; the run starts from the beginning", file=sys.stderr)
    return None


def prune(folder: Path, step_now: int, keep: int) -> None:
    """Remove all but the last `keep` checkpoints up to `step_now`."""
    # Those of later steps are damaged, or they would have been used.
    usable = [c for c in found(folder) if step(c) <= step_now]
    for old in set(found(folder)) - set(usable[-keep:]):
        shutil.rmtree(old, ignore_errors=True)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
