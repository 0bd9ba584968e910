"""What a failed run says, in its record and to its user: one line, and for memory the settings that would help."""

from __future__ import annotations

import dataclasses

from ..errors import MEMORY_MESSAGES, out_of_memory
from ..spec.run_config import RunConfig


def explain(error: Exception, config: RunConfig) -> dict[str, str]:
    """`error` as the record holds it: its type and message."""
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return {"type": "OutOfMemoryError", "message": f"out of memory{_shortage(text)}; {remedies(config)}"}
    return {"type": type(error).__name__, "message": text}


def remedies(config: RunConfig) -> str:
    """The settings that lower what `config` needs, first those with which it stays the same cell."""
    h, m, batch = config.hardware, config.method, config.training.batch_size
    micro = min(h.device_batch_size or batch, batch)
    same = [f"hardware.device_batch_size below {micro}"] * (micro > 1)
    same += [f"task.eval_batch_size below {config.task.eval_batch_size}"] * ((config.task.eval_batch_size or 1) > 1)
    same += ["hardware.activation_checkpointing=true"] * (not h.activation_checkpointing)
    other = [f"method.rank below {m.rank}"] * ((m.rank or 1) > 1)
    quantizable = m.rank and not m.restart_every and config.quantization == "none" and _allowed("nf4")
    other += ["quantization=nf4"] * bool(quantizable)
    told = [f"the same cell with {' or '.join(same)}"] * bool(same)
    told += [f"another cell with {' or '.join(other)}"] * bool(other)
    return "less is needed for " + ", ".join(told) if told else "nothing is left to lower but the model and the batch"


def _allowed(quantization: str) -> bool:
    (setting,) = (f for f in dataclasses.fields(RunConfig) if f.name == "quantization")
    return bool(setting.metadata["check"].passes(quantization))


def _shortage(text: str) -> str:
    """The sentence that says it, and the next, which says how much was asked for; torch goes on for pages."""
    sentences = text.split(". ")
    said = [i for i, sentence in enumerate(sentences) if any(sign in sentence.lower() for sign in MEMORY_MESSAGES)]
    return f" ({'. '.join(sentences[said[0] : said[0] + 2])})" if said else ""
