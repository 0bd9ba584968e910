"""What tests share: a run's configuration, composed as run.py composes it, trained runs, and the marker for promises.

A promise is a sentence that a user may rely on. A test that proves a promise has the marker `promise` with the
sentence, and counts what the test did. `make reliability` writes the sentences and the counts to docs/reliability.md
(`promises.py`):

    @pytest.mark.promise("A run that is killed ends with the same bits as an undisturbed run.")
    def test_killed(counted):
        ...
        counted(3, "kills")

All tests that prove the same promise have the same sentence. Counts add up over the cases of a test.
"""

import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

# Set before torch is imported anywhere: idle threads of several test processes must not fight for two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

from experiments.cli.composer import CellComposer
from experiments.spec.compose import register
from experiments.spec.parse import parse
from experiments.spec.run_config import RunConfig
from experiments.store.records import Record

# A job in the background of a shell, or under nohup, ignores these signals, and so would the runs that tests start.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
pytest_plugins = ["tests.promises", "tests.downloads"]


class Hydra:
    """Composes with Hydra. It has the method of Hydra's loader that `CellComposer` calls for each choice of files."""

    def load_sweep_config(self, sweep: DictConfig, arguments: list[str]) -> DictConfig:
        register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            return hydra_compose("config", overrides=arguments, return_hydra_config=True)


COMPOSER = CellComposer(Hydra())


def compose(*overrides: str) -> RunConfig:
    """The typed configuration that run.py would compose from these arguments."""
    composed = COMPOSER(DictConfig({}), overrides)
    with open_dict(composed):
        del composed["hydra"]
    return parse(composed)


def some_slow(cases: Iterable[Any], default: Collection[Any]) -> list[Any]:
    """The cases of a test, all but the `default` ones marked as slow: these few show that the test can fail."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*v, marks=[] if v in default or v[0] in default else [pytest.mark.slow]) for v in values]


@pytest.fixture
def smoke(tmp_path: Path) -> Callable[..., RunConfig]:
    """A configuration at smoke scale whose results go to a folder of the test's own."""

    def make(*overrides: str) -> RunConfig:
        own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={tmp_path / 'results'}"]
        return compose(*own, *overrides)

    return make


@pytest.fixture
def copied(trained, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the trained MoRA run for one test: the results folder, and the key of the run."""
    results, records = trained
    key = records["mora"].key
    (tmp_path / "runs").mkdir()
    shutil.copytree(results / "models" / key, tmp_path / "models" / key)
    shutil.copy(results / "runs" / f"{key}.json", tmp_path / "runs")
    return tmp_path, key


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record]]:
    """A results folder with finished smoke runs and their models, and the records by name. Tests must not change it."""
    from experiments import runner

    results = tmp_path_factory.mktemp("trained")
    runs = {
        "mora": ["method=mora", "method.operator=sharing"],
        "square": ["method=mora", "method.operator=sharing", "method.rank=8", "method.target_modules=[q_proj,o_proj]"],
        "rotation": ["method=mora", "method.operator=rotation"],
        "remora": ["method=remora"],
        "fft": ["method=fft"],
        "lora": ["method=lora"],
    }
    own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={results}"]
    return results, {name: runner.run(compose(*own, *arguments)) for name, arguments in runs.items()}
