"""Table 2 on the device, as far as the time allows: one seed, at the learning rates that the protocol uses."""

from __future__ import annotations

from pathlib import Path

from experiments.store.folder import read_records
from scripts import plan

from .device import Device
from .parts import Emit

INTERRUPTED = 130


def measure(device: Device, emit: Emit, results: Path) -> None:
    """A row for each run of the study that has a record. Finished runs are not run again.

    Raises:
        RuntimeError: A run failed.
        KeyboardInterrupt: The time was up; the current run has saved a checkpoint.
    """
    scale = "smoke" if device.rehearsal else "workstation"
    fewer = (
        ["--method", "lora", "training.steps=2", "training.warmup_steps=1", "training.evaluate_every=2"]
        if device.rehearsal
        else []
    )
    runs = ["--scale", scale, "--run", "--rate-search", "off", "--seeds", "1", "--results", str(results)]
    code = plan.main(["table2", *runs, *fewer, "logger=none", *device.settings])
    for record in read_records(results)[0]:
        if record.cell["task"] != "uuid" or record.cell["scale"] != scale:
            continue
        final = record.metrics.get("final", {})
        row = {"run": record.name, "status": record.status, "char_accuracy": final.get("char_accuracy")}
        emit(row | {name: record.cost.get(name) for name in ("seconds", "tokens_per_second", "peak_memory_bytes")})
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"plan.py ended with code {code}: a run failed or could not be planned")
