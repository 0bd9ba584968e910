"""Export the model of a finished run for use without this project.

    python scripts/export_adapter.py KEY OUT                        a whole transformers model with the update merged in
    python scripts/export_adapter.py KEY OUT --dtype bfloat16       the same in bfloat16, not in the format of the base
    python scripts/export_adapter.py KEY OUT --format lora          a LoRA for PEFT; exact for most operators
    python scripts/export_adapter.py KEY OUT --format lora --rank 64 --force      the closest LoRA of rank 64
    python scripts/export_adapter.py KEY OUT --format miss          sharing as MiSS, for PEFT; as small as MoRA's M
    python scripts/export_adapter.py KEY OUT --format adapter --push owner/name   the trained adapter, uploaded

OUT must not exist. The script creates all of OUT or nothing. Exit codes: 0 done; 2 refused, in one line.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.reuse import export, load
from experiments.store.records import Store


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("key", metavar="KEY")
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/ and models/")
    script.add_code(parser)
    parser.add_argument("--format", choices=export.FORMATS, default="merged")
    parser.add_argument(
        "--dtype",
        choices=export.DTYPES,
        help="number format (default: merged: that of the base model; lora, miss: as trained)",
    )
    parser.add_argument("--rank", type=script.positive, help="lora: rank of the approximation")
    loss = parser.add_mutually_exclusive_group()
    loss.add_argument(
        "--tolerance",
        type=script.not_negative,
        default=export.ROUNDING,
        help="lora: largest relative error (default: %(default)s)",
    )
    loss.add_argument("--force", action="store_true", help="lora: write the LoRA whatever its error")
    parser.add_argument("--push", metavar="REPO", help="upload OUT to this hub repository")
    options = parser.parse_args(arguments)
    store = Store(options.results)
    record = load.finished(store, options.key)
    limits = export.LoraLimits(options.rank, options.tolerance, options.force)
    summary = export.export(record, store, options.out, options.format, limits, options.dtype)
    print(f"{options.out}: {summary}")
    if options.push:
        print(f"uploaded: {export.push(options.out, options.push)}")
    return 0


if __name__ == "__main__":
    sys.exit(script.guarded(main))
