"""Compare the memory of real training steps on this machine's CPU with the estimate of the dry run.

    python scripts/check_dry_run.py                        a Markdown table of two models and several methods
    python scripts/check_dry_run.py --model tiny

Saved: the bytes that autograd keeps for the backward pass, counted by autograd's hooks. Peak: the largest memory of a
process, minus its memory before the model was built. Each row of the table starts a process and takes up to a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tabulate import tabulate

from experiments.cli import script
from experiments.estimate import needs
from experiments.spec.compose import composition
from experiments.spec.parse import parse
from experiments.spec.run_config import RunConfig
from experiments.train import peak_memory

METHODS = {
    "fft": ["method=fft"],
    "lora r=8": ["method=lora", "method.rank=8"],
    "mora r=8 sharing": ["method=mora", "method.rank=8", "method.operator=sharing"],
    "mora r=8 rotation": ["method=mora", "method.rank=8", "method.operator=rotation"],
}
SIZES = {"tiny": (16, 512), "smollm2-135m": (4, 256)}  # rows, tokens


def config_of(model: str, arguments: list[str], checkpointing: bool) -> RunConfig:
    rows, length = SIZES[model]
    own = [f"model={model}", "task=math", "scale=paper", "hardware=cpu", f"task.max_length={length}"]
    own += [f"training.batch_size={rows}", f"hardware.device_batch_size={rows}"]
    own += [f"hardware.activation_checkpointing={str(checkpointing).lower()}"]
    return parse(composition([*own, *arguments]))


def measure(config: RunConfig) -> dict[str, float]:
    """Measure two real steps in this process, in bytes."""
    import torch

    from experiments.spec import shapes
    from experiments.train import adapt, scratch
    from experiments.train import trainer as training

    training.quiet()
    shape, saved = shapes.NAMED[config.model], dict[int, int]()

    def train(shape: shapes.Llama, rows: int, length: int) -> None:
        network = scratch.llama(shape, 0, bos=0, eos=1, pad=2)
        model: Any = adapt.adapt(network, config).model.train()
        if config.hardware.activation_checkpointing:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        ids = torch.randint(3, 200, (rows, length))
        weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            memory = tensor.untyped_storage()
            if memory.data_ptr() not in weights:
                saved[memory.data_ptr()] = memory.nbytes()
            return tensor

        for _ in range(2):
            saved.clear()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    train(dataclasses.replace(shape, layers=1), 1, 8)  # in a first step, so that the libraries load their last parts
    before = peak_memory.peak()
    train(shape, *SIZES[config.model])
    return {"saved": sum(saved.values()), "peak": peak_memory.peak() - before}


def comparison(model: str, name: str, checkpointing: bool) -> dict[str, float]:
    """The estimate, and the measurement in a new process, in bytes."""
    from experiments.estimate import trace
    from experiments.train.placement import Placement

    config = config_of(model, METHODS[name], checkpointing)
    placement = Placement("cpu", "fp32")
    step = trace.step(trace.adapted(config, placement).model, placement, *SIZES[model])
    command = [sys.executable, __file__, "--measure", model, name, str(int(checkpointing))]
    # malloc puts each tensor in its own pages and returns the pages, so the measurement holds live tensors only.
    pages = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=pages, encoding="utf-8")
    real = json.loads(done.stdout.splitlines()[-1])
    return {
        "saved": step.plain.saved,
        "saved_measured": real["saved"],
        "peak": needs.estimate(config).peak[int(checkpointing)],
        "peak_measured": real["peak"],
    }


def line(model: str, name: str, checkpointing: bool) -> list[str]:
    memory = comparison(model, name, checkpointing)

    def estimate_and_measurement(what: str) -> list[str]:
        estimate, measurement = memory[what], memory[f"{what}_measured"]
        return [
            f"{estimate / 2**20:,.1f}",
            f"{measurement / 2**20:,.1f}",
            f"{100 * (estimate / measurement - 1):+.1f} %",
        ]

    # With checkpointing, the function that recomputes holds the tensors, and autograd's hooks do not see them.
    saved = ["", "", ""] if checkpointing else estimate_and_measurement("saved")
    return [model, name, "yes" if checkpointing else "no", *saved, *estimate_and_measurement("peak")]


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("--model", choices=SIZES, action="append", help="only this model (repeatable)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        model, name, checkpointing = options.measure
        print(json.dumps(measure(config_of(model, METHODS[name], checkpointing == "1"))))
        return 0
    header = ("model", "method", "checkpointing", "saved, MiB", "measured", "off", "peak, MiB", "measured", "off")
    rows = [line(m, name, c) for m in options.model or SIZES for name in METHODS for c in (False, True)]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(script.guarded(main))
