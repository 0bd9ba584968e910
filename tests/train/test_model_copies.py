"""A folder that is a copy of a model on the hub: the run counts as a run on the model's id."""

import contextlib
import json

import pytest

from experiments import runner
from experiments.errors import ConfigError
from experiments.identity import cell_of, fingerprint, identity_of, key_of, name_of
from experiments.reuse import load
from experiments.spec import shapes
from experiments.store.records import Store
from experiments.study.printed import paper_values_of
from experiments.train import base_models, scratch

LLAMA, SHARED = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-3.1-8B"
SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SIZES))
    return folder


def test_a_copy_fills_the_papers_cell(copy, smoke):
    arguments = ("task=instruct", "scale=paper", "method=lora", "method.rank=8")
    own = smoke(*arguments, f"model={copy}", f"model_id={LLAMA}")
    published = smoke(*arguments)
    assert key_of(identity_of(own)) == key_of(identity_of(published))
    assert cell_of(own) == cell_of(published)
    assert name_of(own) == name_of(published)
    assert paper_values_of(identity_of(own)) == paper_values_of(identity_of(published)) != []
    assert key_of(identity_of(smoke(*arguments, f"model={copy}"))) != key_of(identity_of(published))


def test_what_is_no_copy_is_refused(copy, smoke):
    for arguments, message in (
        ((f"model={copy}", "model_id=llama"), "model_id must be an owner/name on the hub, got 'llama'"),
        (("model=tiny", f"model_id={LLAMA}"), "model=tiny is no folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            smoke(*arguments)
    (copy / "config.json").write_text(json.dumps(SIZES | {"num_hidden_layers": 40}))
    with pytest.raises(ConfigError, match=f"is no copy of {LLAMA}: its config.json has other sizes"):
        smoke(f"model={copy}", f"model_id={LLAMA}")


@pytest.mark.parametrize(
    ("model", "heads", "is_copy"),
    [
        (LLAMA, {"num_key_value_heads": 32}, True),
        (LLAMA, {"num_key_value_heads": None}, True),  # as many as the model has heads
        (LLAMA, {}, True),
        (LLAMA, {"num_key_value_heads": 8}, False),
        (SHARED, {"num_key_value_heads": 8}, True),
        (SHARED, {"num_key_value_heads": 32}, False),
        (SHARED, {}, False),
    ],
)
def test_the_shared_heads_of_a_copy_are_those_of_the_model(model, heads, is_copy, copy, smoke):
    sizes = shapes.NAMED[model].sizes
    del sizes["num_key_value_heads"]
    (copy / "config.json").write_text(json.dumps(sizes | heads))
    refused = pytest.raises(ConfigError, match=f"is no copy of {model}: its config.json has other sizes")
    with contextlib.nullcontext() if is_copy else refused:
        smoke(f"model={copy}", f"model_id={model}")


def test_the_sizes_of_a_model_are_those_of_its_configuration():
    for model in shapes.NAMED.values():
        assert model.sizes.items() <= model.config().to_dict().items()


def test_the_record_says_which_folder_it_was(smoke, tmp_path):
    folder = tmp_path / "copy"
    base_models.tiny_model().save_pretrained(folder)
    scratch.byte_tokenizer().save_pretrained(folder)
    config = smoke(f"model={folder}", "model_id=someone/tiny")
    record = runner.run(config)
    assert record.status == "finished", record.error
    assert (record.cell["model"], record.identity["model"]) == ("someone/tiny", "someone/tiny")
    assert record.provenance["model_copy_of"] == "someone/tiny"
    assert record.provenance["model_revision"] == fingerprint(str(folder), config.paths)
    store = Store(tmp_path / "results")
    assert load.score(record, store, load.settings(record, store)) == record.metrics["final"]


def test_a_model_that_cannot_be_reached_is_one_line_that_says_how_to_get_it(tmp_path, smoke):
    config = smoke(f"model={LLAMA}", f"paths.cache={tmp_path}")
    with pytest.raises(
        ConfigError, match=rf"^model {LLAMA} cannot be loaded; fetch it .*model=FOLDER model_id={LLAMA}"
    ) as e:
        base_models.tokenizer_of_run(config)
    assert "\n" not in str(e.value)


def test_a_gated_model_is_one_line_that_names_the_licence():
    error = base_models._not_loaded(LLAMA, LLAMA, "You are trying to access a gated repo.")
    assert f"accept its licence at https://huggingface.co/{LLAMA}, and set HF_TOKEN" in str(error)
