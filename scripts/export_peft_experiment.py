"""Write MoRA as an experiment of PEFT's own comparison of methods (huggingface/peft, method_comparison/MetaMathQA).

    python scripts/export_peft_experiment.py OUT             rank 32: as many parameters as the LoRA there
    python scripts/export_peft_experiment.py OUT --rank 64 --operator rotation --learning-rate 2e-4

OUT is the folder method_comparison/MetaMathQA of a clone of PEFT, or any other folder. The script writes
OUT/experiments/mora/NAME and says how to start the comparison. Exit codes: 0 done; 2 refused, in one line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.reuse import peft_comparison


def rate(text: str) -> float:
    """The type of a learning rate: a number between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1, got {text}")
    return number


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--rank", type=script.positive, default=32, help="the rank of the LoRA with as many parameters")
    parser.add_argument("--operator", default="sharing", help="the operator of MoRA (default: %(default)s)")
    parser.add_argument("--learning-rate", type=rate, default=3e-4, help="the peak of the rate (default: %(default)s)")
    options = parser.parse_args(arguments)
    experiment = peft_comparison.write(options.out, options.rank, options.operator, options.learning_rate)
    sides = ", ".join(f"{name} {q}" for name, q in experiment.r_hat.items())
    print(f"{options.out / experiment.folder}: {experiment.parameters:,} trainable parameters (r_hat: {sides});")
    print(f"the LoRA of rank {options.rank} has {experiment.budget:,}. Start it in {options.out} with")
    print(f"{peft_comparison.START} {experiment.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(script.guarded(main))
