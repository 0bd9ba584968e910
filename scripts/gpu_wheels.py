"""Write a folder of wheels with which `make gpu` works offline on a machine with torch, transformers, accelerate, peft.

    python scripts/gpu_wheels.py                   the folder gpu-wheels, for this Python
    python scripts/gpu_wheels.py --python 3.12     for another Python
    python scripts/gpu_wheels.py --model           with the model of Table 2 at workstation scale, from the cache

Copy the folder, together with this repository, to the machine with the GPU, and call `make gpu` there.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.cli import script
from experiments.errors import ConfigError
from experiments.spec.run_config import Paths

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
GIVEN = ("torch", "transformers", "accelerate", "peft")
NEEDED = ("aenum", "bitsandbytes", "hydra-core", "pydantic", "pytest", "pytest-timeout", "rich", "tabulate")


def main(arguments: list[str] | None = None) -> int:
    parser = script.Parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu-wheels"), metavar="FOLDER")
    parser.add_argument("--python", help="the version of Python on the machine with the GPU, such as 3.12")
    parser.add_argument("--model", action="store_true", help=f"copy the model {MODEL} as well (about 0.5 GB)")
    options = parser.parse_args(arguments)
    source = Paths(results="results", cache=os.environ.get("MORA_CACHE")).cache_folder / "models" / MODEL
    if options.model and not (source / "model.safetensors").is_file():
        raise ConfigError(f"{source} holds no model; run `python scripts/prepare_data.py` first")
    options.output.mkdir(parents=True, exist_ok=True)
    build(options.output, missing(), options.python)
    if options.model:
        shutil.copytree(source, options.output / "cache" / "models" / MODEL, dirs_exist_ok=True)
    wheels = sorted(options.output.glob("*.whl"))
    for wheel in wheels:
        print(wheel)
    print(f"{len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.0f} MB")
    return 0


def missing() -> list[str]:
    """The packages that `make gpu` needs, with all that these packages need, without what GIVEN brings.

    Some versions of the packages of GIVEN bring no pydantic and no rich, so these two are there in any case.
    """
    return sorted(closure(NEEDED) - (closure(GIVEN) - closure(("pydantic", "rich"))))


def closure(names: tuple[str, ...]) -> set[str]:
    """The packages of these names and all packages that these packages need, as they are installed here."""
    closed: set[str] = set()
    waiting = [*names]
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name in closed:
            continue
        closed.add(name)
        try:
            requirements = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:  # an optional package; it needs only what GIVEN brings
            continue
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return closed


def build(folder: Path, packages: list[str], python: str | None) -> None:
    """Write the wheels of the packages in the versions of constraints.txt.

    Raises:
        ConfigError: pip cannot get a wheel.
    """
    fixed = ["--no-deps", "--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt")]
    pip("wheel", *fixed, "--wheel-dir", str(folder), *packages)
    for wheel in folder.glob("*-cp*-*.whl") if python else ():
        wheel.unlink()  # a wheel with machine code is for one version of Python
        place = ["--only-binary", ":all:", "--python-version", str(python), "--platform", "manylinux_2_28_x86_64"]
        place += ["--platform", "manylinux2014_x86_64", "--dest", str(folder)]
        pip("download", *fixed, *place, wheel.name.split("-")[0])


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise ConfigError(f"pip {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    sys.exit(script.guarded(main))
