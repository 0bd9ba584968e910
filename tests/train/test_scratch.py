"""Models with random weights, and the tokenizer that is learned for the small model."""

import torch

from experiments.data import corpora
from experiments.spec import shapes
from experiments.train import base_models, scratch

from ..data.tokenizers_of import CACHE


def test_the_tokenizer_is_learned_the_same_each_time():
    vocabulary = scratch.learned_tokenizer(4096, CACHE).backend_tokenizer.get_vocab()
    assert scratch.learn_tokenizer(4096, CACHE).get_vocab() == vocabulary
    assert len(vocabulary) == 4096


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
