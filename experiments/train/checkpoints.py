"""Checkpoints: each folder gets a file with the checksums of its files, which are compared before the folder is used.

A crash cannot leave half a checkpoint, because the folder is renamed to its name when it is complete. Disks and file
systems can: a file comes back empty, cut off, or with other bytes. A run then warns and uses the checkpoint before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .. import files

SEAL = "sums.json"


def by_step(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first, damaged ones included."""
    paths = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(paths, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def seal(checkpoint: Path) -> None:
    """Flush every file of a checkpoint to the disk, and add the file of checksums."""
    files.flush_all(checkpoint)
    paths = (p for p in sorted(checkpoint.rglob("*")) if p.is_file())
    files.write_json(checkpoint / SEAL, {str(p.relative_to(checkpoint)): files.sha256(p) for p in paths})


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, for a message; None if every file has its checksum."""
    try:
        sums = json.loads((checkpoint / SEAL).read_bytes())
    except (OSError, ValueError):
        return f"{SEAL} is missing or unreadable"
    if not isinstance(sums, dict):
        return f"{SEAL} holds no sums"
    for name, expected in sums.items():
        try:
            if files.sha256(checkpoint / name) != expected:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint without damage, or None. Prints a warning for each newer checkpoint."""
    paths = by_step(folder)
    for path in reversed(paths):
        reason = damage(path)
        if reason is None:
            return path
        print(f"warning: checkpoint {path} is damaged and is not used: {reason}", file=sys.stderr)
    if paths:
        print(f"warning: no checkpoint in {folder} can be used; the run starts from the beginning", file=sys.stderr)
    return None


def prune(folder: Path, step: int, keep: int) -> None:
    """Remove all checkpoints but the last `keep` up to `step`, the current step."""
    # Checkpoints of later steps are damaged: otherwise the run would have continued from them.
    paths = by_step(folder)
    usable = [path for path in paths if step_of(path) <= step]
    for path in set(paths) - set(usable[-keep:]):
        files.remove(path)
