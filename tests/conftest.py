"""What tests share: a run's configuration, composed as run.py composes it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before torch is imported anywhere: idle threads of several test processes must not fight for two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from experiments import resolvers
from experiments.config import RunConfig, parse
from experiments.records import Record

ROOT = Path(__file__).parent.parent


def compose(*overrides: str) -> RunConfig:
    """The typed configuration that run.py would make of these arguments."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    resolvers.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return parse(hydra_compose("config", overrides=list(overrides)))


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[int, str], None]:
    """`counted(n, what)`: how much of what a test has tried, for the report on reliability."""

    def count(n: int, what: str) -> None:
        request.node.user_properties.append(("counted", (n, what)))

    return count


@pytest.fixture
def smoke(tmp_path: Path) -> Callable[..., RunConfig]:
    """A configuration at smoke scale whose results go to a folder of the test's own."""

    def make(*overrides: str) -> RunConfig:
        own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={tmp_path / 'results'}"]
        return compose(*own, *overrides)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record]]:
    """A results folder with finished smoke runs and their models, and the records by name. Not to be changed."""
    from experiments import runner

    results = tmp_path_factory.mktemp("trained")
    runs = {
        "mora": ["method=mora", "method.operator=sharing"],
        "rotation": ["method=mora", "method.operator=rotation"],
        "remora": ["method=remora"],
        "fft": ["method=fft"],
        "lora": ["method=lora"],
    }
    own = ["scale=smoke", "logger=none", "hardware=cpu", f"paths.results={results}"]
    return results, {name: runner.run(compose(*own, *arguments)) for name, arguments in runs.items()}
