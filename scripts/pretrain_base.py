"""Pretrain the base model of continual pretraining at laptop scale, and keep the model in the cache.

    python scripts/pretrain_base.py          after an interruption, give the same command again

The script does the run `python run.py experiment=base`: full training of a model with random weights on general text.
The run takes about half an hour on two cores, and is needed once.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import runner
from experiments.cli import command, script
from experiments.spec import compose
from experiments.spec.arguments import argument
from experiments.spec.parse import parse
from experiments.spec.run_config import Paths
from experiments.store.records import Store
from experiments.train import base_models, scratch


def main(arguments: list[str] | None = None) -> int:
    script.Parser(__doc__).parse_args(arguments)
    command.prepare_environment()
    results = Paths(results="results").cache_folder / "models" / f"{base_models.BASE}-run"
    config = parse(compose.composition(["experiment=base", argument("paths.results", str(results))]))
    cache = config.paths.cache_folder
    if (base_models.base_folder(cache) / "origin.json").is_file():
        print(f"{base_models.BASE} exists already: {base_models.pretrained_base(cache)}")
        return 0
    record = runner.run(config)
    if record.status != "finished":
        return 1
    tokenizer = scratch.tokenizer_of(config.model, cache)
    folder = base_models.keep_base(Store(results).model(record.key), tokenizer, record.key, cache)
    print(f"{base_models.BASE}: perplexity {record.metrics['final']['perplexity']:.1f} on held-out C4; {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(script.guarded(main))
