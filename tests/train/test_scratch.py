"""Models with random weights, and the tokenizer that is learned for the small model."""

import json

import pytest
import torch

from experiments.data import corpora
from experiments.spec import shapes
from experiments.train import base_models, scratch

from ..data.tokenizers_of import CACHE


def test_the_tokenizer_is_learned_the_same_each_time():
    vocabulary = scratch.learned_tokenizer(4096, CACHE).backend_tokenizer.get_vocab()
    assert scratch.learn_tokenizer(4096, CACHE).get_vocab() == vocabulary
    assert len(vocabulary) == 4096


@pytest.mark.promise("A value that the cache keeps has a sum. If the file is damaged, the value is computed again.")
def test_a_damaged_tokenizer_is_learned_again(tmp_path, monkeypatch, capsys, counted):
    """With two tokens exchanged the file is a tokenizer still, with other ids."""
    learned = scratch.byte_tokenizer().backend_tokenizer
    monkeypatch.setattr(scratch, "learn_tokenizer", lambda *_: learned)
    for _ in range(2):
        assert scratch.learned_tokenizer(260, tmp_path).backend_tokenizer.to_str() == learned.to_str()
        assert not capsys.readouterr().err
    (path,) = (tmp_path / "models").iterdir()
    content = json.loads(path.read_text())
    vocabulary = content["value"]["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    assert scratch.learned_tokenizer(260, tmp_path).backend_tokenizer.to_str() == learned.to_str()
    assert capsys.readouterr().err == f"warning: {path} is damaged; the tokenizer is learned again\n"
    monkeypatch.setattr(scratch, "learn_tokenizer", lambda *_: pytest.fail("learned again"))
    assert scratch.learned_tokenizer(260, tmp_path)("a").input_ids == scratch.byte_tokenizer()("a").input_ids
    counted(1, "damaged cache files")


def test_the_tokenizer_loses_nothing():
    tokenizer = scratch.learned_tokenizer(4096, CACHE)
    for text in corpora.c4(CACHE)[1][:20]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text.encode()) / 2.5


def test_the_seed_draws_the_weights():
    def weights(seed):
        network, _, revision = base_models.load("llama-3m", CACHE, torch.float32, seed)
        return network.model.layers[0].mlp.up_proj.weight, revision

    (one, name), (again, _), (other, _) = weights(0), weights(0), weights(1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert name == "llama-3m-seed0"


def test_the_papers_models_have_the_papers_sizes():
    """250 M and 1.3 B parameters with head and embedding, counted on the meta device, which needs no memory."""
    for name, low, high in (("llama-250m", 240e6, 260e6), ("llama-1.3b", 1.25e9, 1.4e9)):
        with torch.device("meta"):
            network = scratch.llama(shapes.NAMED[name], 0, bos=None, eos=1, pad=0)
        assert low < sum(p.numel() for p in network.parameters()) < high
