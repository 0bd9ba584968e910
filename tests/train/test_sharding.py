"""What a sharded run gathers before it saves: as much as PEFT writes of an adapter, and no more."""

import pytest
import torch
from peft import get_peft_model_state_dict

from experiments.train import sharding
from experiments.train.base_models import tiny_model

from ..conftest import some_slow
from .test_all_methods import NAMES, expected_warnings
from .test_methods import adapt

OPTIONS = ["lora +method.peft.modules_to_save=[lm_head]", "lora +method.peft.bias=lora_only"]


@expected_warnings
@pytest.mark.parametrize("arguments", some_slow([*OPTIONS, *NAMES], [*OPTIONS, "vera", "mora", "relora"]))
def test_what_is_gathered_is_what_peft_saves_of_an_adapter(arguments, smoke):
    model = adapt(smoke, *arguments.split(), "method.rank=8").model
    expected = get_peft_model_state_dict(model)
    gathered = sharding.whole_weights(model)
    saved = get_peft_model_state_dict(model, state_dict=gathered)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())
    assert sum(t.numel() for t in gathered.values()) <= sum(t.numel() for t in expected.values())


def test_without_an_adapter_the_whole_model_is_gathered():
    model = tiny_model()
    assert sharding.whole_weights(model).keys() == model.state_dict().keys()
