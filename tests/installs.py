"""Install the wheel and the sdist in virtual environments of their own, and try the installed library.

    python -m tests.installs dist/*            beside the packages of this environment: takes seconds
    python -m tests.installs --empty dist/*    in an empty environment: downloads every dependency

Without --empty, the new environment sees the packages of this environment, but not its editable installation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a new user does. The code runs in an empty folder, so `mora` can only be the installed one.
SMOKE = """
import subprocess, sys
from importlib.metadata import version
from importlib.resources import files
import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
import mora
from mora.conversion import as_lora

assert mora.__file__.startswith(sys.prefix), mora.__file__
assert mora.__version__ == version("mora-peft")
assert files("mora").joinpath("py.typed").is_file()

def base():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    return LlamaForCausalLM(LlamaConfig(**sizes)).eval()

tokens = torch.arange(12).unsqueeze(0)
config = mora.MoraConfig(r=4, operator="sharing", target_modules=["q_proj", "down_proj"], init_weights=False)
model = get_peft_model(base(), config).eval()
model(tokens, labels=tokens).loss.backward()
logits = model(tokens).logits
model.save_pretrained("adapter")
assert torch.equal(PeftModel.from_pretrained(base(), "adapter").eval()(tokens).logits, logits)
assert as_lora(model).error == 0
assert torch.allclose(model.merge_and_unload()(tokens).logits, logits, atol=1e-5)
wrong = subprocess.run([sys.executable, "-m", "mora", "no-such-command"], capture_output=True, text=True)
# bitsandbytes, where it is installed, may print a line above ours
assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1].startswith("mora: no command"), wrong
print("works:", mora.__version__, mora.__file__)
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Try a wheel or an sdist of the library.")
    parser.add_argument("--empty", action="store_true", help="download every dependency")
    parser.add_argument("archives", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    for archive in given.archives:
        print(f"{archive.name}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try_archive(archive.resolve(), Path(folder), given.empty)
    return 0


def try_archive(archive: Path, folder: Path, empty: bool) -> None:
    """Install the archive in a new environment below `folder`, and run `SMOKE` there.

    Raises:
        subprocess.CalledProcessError: The installation or the smoke test failed.
    """
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = partial(subprocess.run, check=True, cwd=folder, env=own)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if empty:
        pip += ["--constraint", str(ROOT / "constraints.txt")]
        run([*pip, "torch"])  # first, as in the Makefile: the build without CUDA
        run([*pip, str(archive)])
    else:
        (libraries,) = (folder / "venv" / "lib").glob("*/site-packages")
        (libraries / "of-this-environment.pth").write_text(sysconfig.get_path("purelib"))
        run([*pip, "--no-deps", "--ignore-installed", str(archive)])
    run([python, "-c", SMOKE])


if __name__ == "__main__":
    sys.exit(main())
