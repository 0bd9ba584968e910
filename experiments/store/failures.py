"""What a failed run leaves: a message of one line, and a file with the traceback.

If memory ran out, the message also names the settings that lower what the run needs.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from .. import files, redact
from ..errors import MEMORY_MESSAGES, out_of_memory
from ..spec.run_config import RunConfig


def explain(error: Exception, config: RunConfig) -> dict[str, str]:
    """The `error` section of the record: the type and the message of `error`."""
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return {"type": "OutOfMemoryError", "message": f"out of memory{_shortage(text)}; {remedies(config)}"}
    return {"type": type(error).__name__, "message": text}


def remedies(config: RunConfig) -> str:
    """The settings that lower the memory of a run: first settings that keep the cell, then settings that change it."""
    h, m = config.hardware, config.method
    same, other, advice = [], [], []
    if config.device_batch > 1:
        same.append(f"hardware.device_batch_size below {config.device_batch}")
    if (config.task.eval_batch_size or 1) > 1:
        same.append(f"task.eval_batch_size below {config.task.eval_batch_size}")
    if not h.activation_checkpointing:
        same.append("hardware.activation_checkpointing=true")
    if (m.rank or 1) > 1:
        other.append(f"method.rank below {m.rank}")
    if "nf4" in m.quantizable and not m.train_rest and config.quantization == "none":
        other.append("quantization=nf4")
    if same:
        advice.append(f"the same cell with {' or '.join(same)}")
    if other:
        advice.append(f"another cell with {' or '.join(other)}")
    return f"less memory is needed for {', '.join(advice)}" if advice else "only a smaller model or batch needs less"


def write_traceback(path: Path, title: str, error: BaseException) -> bool:
    """Write `title` and the traceback of `error` to a file, with keys and tokens hidden.

    Returns:
        Whether the disk took the file. The error itself is more important than its traceback, so nothing is raised.
    """
    text = f"{title}\n\n{''.join(traceback.format_exception(error))}"
    try:
        files.write(path, redact.text(text).encode(errors="backslashreplace"))
    except OSError:
        return False
    return True


def _shortage(text: str) -> str:
    """The sentence about memory, and the next sentence, which names the bytes; torch's message goes on for pages."""
    sentences = text.split(". ")
    matches = [i for i, text in enumerate(sentences) if any(sign in text.lower() for sign in MEMORY_MESSAGES)]
    return f" ({'. '.join(sentences[matches[0] : matches[0] + 2])})" if matches else ""
