"""Convert a MoRA adapter of the authors' code (kongds/MoRA), so that `PeftModel.from_pretrained` loads it.

    python scripts/import_official.py FOLDER OUT

FOLDER holds the adapter_config.json and the adapter_model.safetensors that the authors' code saved. OUT must not exist.
The script creates all of OUT or nothing. Load OUT after `import mora`. Exit codes: 0 done; 2 refused, in one line.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import files
from experiments.cli import script
from experiments.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    options = parser.parse_args(arguments)
    if options.out.exists() or options.out.is_symlink():
        raise ConfigError(f"OUT exists already and is left as it is: {options.out}")
    if not options.folder.is_dir():
        raise ConfigError(f"FOLDER is not a folder: {options.folder}")
    import mora

    with files.new_folder(options.out) as folder:
        try:
            with files.writing("the adapter", options.out.parent):
                config = mora.convert_official(options.folder, folder)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    print(
        f"{options.out}: a MoRA adapter, operator {config.operator}, r = {config.r}: "
        "PeftModel.from_pretrained loads it after `import mora`"
    )
    return 0


if __name__ == "__main__":
    sys.exit(script.guarded(main))
