"""MoRA as an experiment of PEFT's own comparison of methods (huggingface/peft, method_comparison/MetaMathQA).

The comparison trains each method on MetaMathQA with Llama-3.2-3B and scores GSM8K. An experiment is a folder
`experiments/<method>/<name>` with two files: `adapter_config.json`, a configuration that `PeftConfig.from_pretrained`
reads, and `training_params.json`, the settings of training that differ from the comparison's defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError
from ..spec.shapes import Llama, lora_parameters
from . import load

LLAMA_3_2_3B = Llama(3072, 8192, 28, 24, 8, 128256, tied=True, positions=131072)
TARGETS = ("q_proj", "v_proj")  # the layers that PEFT's LoRA adapts in a LLaMA by default
TRAINING_FILE = "training_params.json"
# Stock PEFT does not know MoRA, so this project is imported before the comparison reads the configuration.
START = "python -c \"import mora, runpy; runpy.run_path('run.py', run_name='__main__')\" -v"


@dataclass(frozen=True)
class Experiment:
    """A folder of the comparison, and what the method costs there.

    Attributes:
        folder: The folder below the folder of the comparison: `experiments/mora/<name>`.
        r_hat: Adapted layer -> the side of M.
        parameters: Trainable parameters.
        budget: Trainable parameters of the LoRA of the same rank.
    """

    folder: Path
    r_hat: dict[str, int]
    parameters: int
    budget: int


def write(out: Path, rank: int, operator: str, rate: float) -> Experiment:
    """Write an experiment below `out`, which stands for the folder `method_comparison/MetaMathQA`.

    Args:
        out: The folder in which `experiments/mora/<name>` is made.
        rank: The rank of the LoRA whose trainable parameters MoRA may spend.
        operator: The operator of MoRA.
        rate: The peak of the learning rate.

    Raises:
        ConfigError: There is no such operator, or the experiment exists already, or it cannot be written.
    """
    from mora import MoraConfig

    try:
        config = MoraConfig(r=rank, operator=operator, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    sizes = {name: LLAMA_3_2_3B.linears()[name] for name in TARGETS}
    r_hat = {name: config.build_operator(k, d).r_hat for name, (k, d) in sizes.items()}
    name = f"llama-3.2-3B-rank{rank}-{operator}-lr_{rate:g}"
    experiment = Experiment(
        Path("experiments", "mora", name),
        r_hat,
        LLAMA_3_2_3B.layers * sum(q * q for q in r_hat.values()),
        LLAMA_3_2_3B.layers * lora_parameters(rank, sizes.values()),
    )
    _write(out / experiment.folder, config.to_dict(), rate)
    return experiment


def _write(final: Path, adapter: dict[str, Any], rate: float) -> None:
    if final.exists():
        raise ConfigError(f"the experiment exists already and is left as it is: {final}")
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in adapter.items()}
    try:
        with files.new_folder(final) as folder:
            files.write_json(folder / load.ADAPTER_SETTINGS, settings)
            # The paper trains without weight decay; the comparison's default is 0.1.
            files.write_json(folder / TRAINING_FILE, {"optimizer_kwargs": {"lr": rate, "weight_decay": 0.0}})
    except OSError as error:
        raise ConfigError(f"{final} cannot be written: {error.strerror}") from None
