"""The commands of every page name settings and options that exist. Pages with a test file of their own are also run.

The reference names every module of the library, and the site shows every page.
"""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.reuse import load
from experiments.spec import shapes
from experiments.store.records import Store
from mora import MoraConfig
from mora.checkpoint import load_base

from ..conftest import ROOT, compose
from .test_docs import blocks

PAGES = sorted((ROOT / "docs").glob("*.md"))
OWN_TEST = {"adding.md", "cluster.md", "scaling.md"}  # their commands need files or launchers of the page
COMMAND = re.compile(r"python (run\.py|scripts/\w+\.py)((?: (?! )[^`\n]+)?)")


def commands(page: Path, kind: str) -> list[list[str]]:
    """The commands of a page, in blocks and in the text, that start a script of this kind."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    found = [(script, re.split(r"\s{2,}|\s#|\s>", rest)[0]) for script, rest in COMMAND.findall(text)]
    return [[script, *shlex.split(rest)] for script, rest in found if script.startswith(kind)]


RUNS = {" ".join(c): c[1:] for page in PAGES if page.name not in OWN_TEST for c in commands(page, "run.py")}
SCRIPTS = {" ".join(c): c for page in PAGES for c in commands(page, "scripts/")}


def write_config_of_llama(folder: Path) -> None:
    """Write the config.json of a copy of LLaMA-2 7B, without weights."""
    config = shapes.NAMED["meta-llama/Llama-2-7b-hf"].sizes
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Path:
    """The files that the commands name, as a reader would have them, in the working folder."""
    write_config_of_llama(tmp_path / "models" / "llama-2-7b")
    for folder in ("copy/data", "my/tasks"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("rows.jsonl", "test.csv"):
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_a_run_is_a_right_configuration(arguments, reader):
    elsewhere = ("-", "my/conf", "experiment=cluster", "hardware=")  # configuration of the reader, and other machines
    own = [a.replace("=/", f"={reader}/") for a in arguments if not a.startswith(elsewhere)]
    for pick in (0, -1):  # a sweep counts as correct if its first and its last cell are correct
        compose(*(a if "[" in a else f"{a.split('=')[0]}={a.partition('=')[2].split(',')[pick]}" for a in own))


@pytest.mark.parametrize("command", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_has_the_options(command, capsys):
    script, *arguments = command
    options = [a for a in arguments if a.startswith("--")]
    assert (ROOT / script).is_file()
    if options:
        with pytest.raises(SystemExit) as ending:
            importlib.import_module(script.removesuffix(".py").replace("/", ".")).main(["--help"])
        assert ending.value.code == 0
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert set(options) <= known


def test_the_snippet_about_records_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (snippet,) = blocks("docs/watching.md", "python")
    exec(compile(snippet, "docs/watching.md", "exec"), {})  # noqa: S102


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=48, num_hidden_layers=1, **sizes))


def sharing(model: LlamaForCausalLM) -> PeftModel:
    return get_peft_model(model, MoraConfig(r=2, operator="sharing", target_modules="all-linear"))


def test_the_snippets_about_the_method_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = sharing(small_model())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mora_M" in name:
                parameter.normal_()
    for snippet in blocks("docs/method.md", "python"):
        exec(compile(snippet, "docs/method.md", "exec"), {"MoraConfig": MoraConfig, "model": model})  # noqa: S102
    tokens = torch.arange(12)[None]
    loaded = PeftModel.from_pretrained(small_model(), tmp_path / "lora")
    assert type(loaded.peft_config["default"]) is LoraConfig
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, atol=1e-5, rtol=0)


def test_the_protocol_of_the_page_is_that_of_a_run():
    (snippet,) = blocks("docs/protocols.md", "yaml")
    shown, protocol = yaml.safe_load(snippet)["protocol"], compose("task=uuid", "scale=laptop").protocol
    rates = shown.pop("learning_rates")
    assert {name: protocol[name] for name in shown} == shown
    for method, ranks in rates.items():
        for rank, grid in ranks.items():
            used, candidates = float(grid["use"]), [float(rate) for rate in grid["candidates"]]
            own = protocol["learning_rates"][method][rank]
            assert (float(own["use"]), [float(rate) for rate in own["candidates"]]) == (used, candidates)


def test_the_snippet_about_restarts_loads_a_finished_run(trained):
    results, records = trained
    record, store = records["remora"], Store(results)
    _, base, _ = load.base_of(record, store, load.settings(record, store))
    (snippet,) = [b for b in blocks("docs/restarts.md", "python") if "load_restarted" in b]
    names = {"base_model": base}
    code = snippet.replace("results/models/<key>", str(store.model(record.key)))
    exec(compile(code, "docs/restarts.md", "exec"), names)  # noqa: S102
    trained_model, _ = load.restore(record, store)
    expected = dict(trained_model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in names["model"].named_parameters())


def test_the_loop_of_the_page_about_restarts_saves_what_it_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = [b for b in blocks("docs/restarts.md", "python") if "save_base" in b]
    for published, small in {"2000": "4", "10000": "12", "1000": "2", "50": "1"}.items():
        snippet, count = re.subn(rf"\b{published}\b", small, snippet)
        assert count
    model = sharing(small_model())
    weight = model.get_base_model().lm_head.weight.clone()
    tokens = torch.arange(12)[None]
    names = {
        "model": model,
        "batches": [{"input_ids": tokens, "labels": tokens}] * 12,
        "optimizer": torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]),
    }
    exec(compile(snippet, "docs/restarts.md", "exec"), names)  # noqa: S102
    assert {update.layer for update in names["updates"]} >= {"model.layers.0.self_attn.q_proj"}
    assert len({update.layer for update in names["updates"]}) * 2 == len(names["updates"])  # merges before steps 4, 8
    base = small_model()
    updates = load_base(base, tmp_path / "out")
    resumed = PeftModel.from_pretrained(base, tmp_path / "out", is_trainable=True)
    assert len(updates) == len(names["updates"])
    torch.testing.assert_close(resumed(tokens).logits, model(tokens).logits, atol=1e-5, rtol=0)
    assert not torch.allclose(resumed(tokens).logits, small_model()(tokens).logits, atol=1e-3)
    assert torch.equal(model.get_base_model().lm_head.weight, weight)  # not adapted


def test_the_reference_names_every_module():
    page = (ROOT / "docs" / "reference.md").read_text()
    modules = {path.stem for path in (ROOT / "mora").glob("*.py")} - {"__init__", "_version"}
    named = set(re.findall(r"^::: mora\.(\w+)$", page, re.MULTILINE))
    public = importlib.import_module("mora").__all__
    assert named >= set(public) - {"__version__"}
    # What `import mora` gives is shown by its name; these modules are not shown again. `kernels` stands for the last.
    assert modules - named == {"config", "layer", "model", "official", "triton_kernels"}


def test_the_site_shows_every_page():
    # mkdocs itself refuses a page that is missing in the navigation; this test says so without mkdocs.
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    shown = set(re.findall(r"[\w-]+\.md", str(navigation)))
    assert {page.name for page in PAGES} == shown - {"index.md", "contributing.md", "changelog.md"}
