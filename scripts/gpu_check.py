"""Check and measure on this machine's GPU what was never measured without one; write results/gpu/<card>.json.

    python scripts/gpu_check.py                  all parts, at most 25 minutes; the same command continues
    python scripts/gpu_check.py --only step      this part again
    python scripts/gpu_check.py --rehearse       the same parts at tiny sizes on the CPU, without a GPU

Parts: `tests` runs the tests that are marked gpu; `layer-4096x4096` and `layer-4096x11008` time one linear layer in
bf16; `step` times the training step of a LLaMA with 1.3 billion weights; `table2` runs Table 2 at workstation scale. A
part that fails is in the file with its reason, and the other parts run. Finished parts are not run again without
--only. Exit codes: 0 done; 1 a part failed; 2 a bad argument, or no GPU; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import redact
from experiments.cli import command, script
from experiments.errors import ConfigError
from scripts.benchmarks.measured_parts import chosen_from
from scripts.gpu import parts
from scripts.gpu.card_file import CardFile
from scripts.gpu.device import Cuda, Device, StandIn

ROOT = Path(__file__).resolve().parent.parent


@redact.streams(best_effort=True)
def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    only = chosen_from(list(parts.PARTS))
    parser.add_argument("--only", type=only, metavar="A,B,...", help="run these parts, also if they are done")
    parser.add_argument("--minutes", type=script.positive, default=25, help="the time of all parts (default: 25)")
    parser.add_argument("--rehearse", action="store_true", help="let the CPU stand in for the GPU, at tiny sizes")
    parser.add_argument(
        "--results", type=Path, help="the folder of the records and of gpu/ (default: results; rehearsal: build/gpu)"
    )
    parser.add_argument("--part", choices=parts.PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    results = options.results or ROOT / ("build/gpu" if options.rehearse else "results")
    if options.rehearse and results.resolve() == ROOT / "results":
        raise ConfigError("--rehearse measures no GPU and does not write to results/; allowed: another folder")
    command.prepare_environment()  # before torch is imported
    device: Device = StandIn() if options.rehearse else Cuda()
    if options.part:
        return parts.run_part(options.part, device, results, say)
    chosen = options.only or list(parts.PARTS)
    open_file = partial(CardFile, results / "gpu", device.card)
    if options.only:
        open_file().forget(chosen)
    say(f"{device.card}: {open_file().path}")
    rehearsal = ["--rehearse"] if options.rehearse else []

    def start(name: str, seconds: float) -> int:
        line = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--results", str(results), *rehearsal]
        return parts.start_process(line, seconds)

    return parts.run_all(chosen, open_file, 60.0 * options.minutes, start, say)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(script.guarded(main))
