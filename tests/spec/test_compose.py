"""The section of a method, put together from its files without Hydra, is the section that Hydra composes."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from experiments.errors import ConfigError
from experiments.spec import compose, methods


def by_hydra(method):
    return OmegaConf.to_container(compose.composition([f"method={method}", "scale=smoke"]).method)


def put_together(method):
    common = OmegaConf.create(compose.file_settings(compose.CONF / "config.yaml")["method"])
    section = compose.section("method", method)
    return None if section is None else OmegaConf.to_container(OmegaConf.merge(common, section))


@pytest.fixture
def folder(tmp_path):
    """A user's folder of methods, in which Hydra looks first."""
    (tmp_path / "method" / "parts").mkdir(parents=True)
    compose.search([str(tmp_path)])
    yield tmp_path / "method"
    compose.search([])


@pytest.mark.parametrize("method", methods.names())
def test_the_section_of_every_method_is_that_of_hydra(method):
    assert put_together(method) == by_hydra(method)


@pytest.mark.parametrize(
    "defaults",
    [
        "",
        "defaults: [lora, _self_]",
        "defaults: [_self_, lora]",
        "defaults: [relora, _self_]",
        "defaults: [other, parts/own@_here_, _self_]",
        "defaults: [mora, parts/own@_here_, _self_]",
        "defaults: [lora, parts/chain@_here_, _self_]",
    ],
)
def test_the_section_of_a_users_method_is_that_of_hydra(folder, defaults):
    (folder / "parts" / "own.yaml").write_text("dropout: 0.25\nshare: 3\n")
    (folder / "parts" / "chain.yaml").write_text("defaults: [own, _self_]\nshare: 4\n")
    (folder / "other.yaml").write_text("defaults: [dora, _self_]\nshare: 1\n")
    (folder / "mine.yaml").write_text(f"{defaults}\nname: mine\ndropout: 0.5\n")
    assert put_together("mine") == by_hydra("mine")


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\nmethod: {name: mine}\n",
        "defaults: [lora]\nname: mine\n",  # Hydra decides where the file itself stands
        "defaults: [lora, parts/own, _self_]\nname: mine\n",  # own.yaml has the section method.parts
        "defaults: [lora, parts/own@peft, _self_]\nname: mine\n",
        "defaults: [lora, {parts: own}, _self_]\nname: mine\n",
        "defaults: [mine, _self_]\nname: mine\n",
        "defaults: [other, _self_]\nname: mine\n",  # and other.yaml inherits from this file
        "defaults: [unknown, _self_]\nname: mine\n",
        "[1, 2]\n",
    ],
)
def test_what_only_hydra_can_say_is_left_to_hydra(folder, text):
    (folder / "parts" / "own.yaml").write_text("share: 3\n")
    (folder / "other.yaml").write_text("defaults: [mine, _self_]\nname: other\n")
    (folder / "mine.yaml").write_text(text)
    assert compose.section("method", "mine") is None
    assert compose.section("method", "absent") is None


def test_a_file_is_found_by_its_name(folder):
    assert compose.file_of("method", "lora") == compose.CONF / "method" / "lora.yaml"
    (folder / "mine.yaml").write_text("name: mine\n")
    assert compose.file_of("method", "mine") == folder / "mine.yaml"
    assert compose.file_of("method", "none such") is None


@pytest.mark.parametrize("name", ["config.yaml", "method/lora.yaml", "method/restarts/paper.yaml", "study/table2.yaml"])
def test_a_users_file_with_the_name_of_a_file_of_the_project_is_refused(tmp_path, name):
    """Hydra looks into conf/ first, so it would ignore the user's file."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("label: mine\n")
    with pytest.raises(ConfigError, match=rf"^{tmp_path / name} has the name of a file of this project.*; allowed: "):
        compose.search([str(tmp_path)])
    assert compose.folders() == [compose.CONF]
    compose.search([str(compose.CONF)])
    assert compose.folders() == [compose.CONF]
