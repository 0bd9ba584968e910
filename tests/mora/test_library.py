"""The library `mora` does not need the harness: its imports, its wheel, and its registration with PEFT."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

import mora

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mora").glob("**/*.py"))
# Packages of the harness. A user who installs only the library does not have them.
HARNESS = {"hydra", "omegaconf", "lm_eval", "wandb", "datasets", "pandas", "experiments", "scripts"}


def imported_packages(source: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(node.module.partition(".")[0])
    return packages


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_sources_import_only_what_the_wheel_requires(source):
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    required = {requirement.partition(">")[0] for requirement in requirements}
    if source.name == "triton_kernels.py":
        required.add("triton")  # an extra: `kernels.use_triton` alone imports this file
    assert imported_packages(source) <= set(sys.stdlib_module_names) | required


def test_importing_the_library_loads_no_package_of_the_harness():
    # transformers looks for optional packages. It may find one, but it must not import one.
    code = "import sys, mora; print(*{name.partition('.')[0] for name in sys.modules})"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "mora" in process.stdout.split()
    assert not HARNESS & set(process.stdout.split())


def test_registering_again_changes_nothing():
    before = (list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING))
    mora.register()
    assert (list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING)) == before
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.MORA] is mora.MoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MORA] is mora.MoraModel


def test_another_method_with_the_name_mora_in_peft_is_not_overwritten(monkeypatch):
    class OtherConfig:
        pass

    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.MORA, OtherConfig)
    with pytest.raises(RuntimeError, match=r"already has a method MORA: .*OtherConfig"):
        mora.register()
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.MORA] is OtherConfig


def test_the_public_names_exist():
    assert {name for name in mora.__all__ if not hasattr(mora, name)} == set()


def test_the_wheel_holds_only_the_library(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    source = tmp_path / "source"
    # Build in another folder, because setuptools writes build folders next to the sources.
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "mora", "experiments"):
        if (ROOT / name).exists():
            (source / name).symlink_to(ROOT / name)
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"mora_peft-{mora.__version__}-py3-none-any.whl"
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files == {str(path.relative_to(ROOT)) for path in SOURCES} | {"mora/py.typed"}


def test_the_citation_and_the_changelog_name_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == mora.__version__
    assert f"\n## {mora.__version__}" in (ROOT / "CHANGELOG.md").read_text()
