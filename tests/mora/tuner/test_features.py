"""What PEFT's LoRA can do: batches with an adapter for each row, sums of adapters, and the table of docs/method.md."""

import pytest
import torch
from peft import PeftModel

from . import features
from .conftest import assert_close


def test_the_table_of_the_docs_is_what_the_tuners_do():
    _, shown, _ = features.parts(features.PAGE.read_text())
    assert shown == features.table(), "stale: python -m tests.mora.tuner.features"


def test_no_feature_is_silently_ignored():
    _, shown, _ = features.parts(features.PAGE.read_text())
    assert len(shown.splitlines()) == len(features.ROWS) + 2
    assert "ignored" not in [line.split("|")[3].strip() for line in shown.splitlines()]


@pytest.fixture
def two(case) -> PeftModel:
    """A model with the adapters `default` and `other`. `other` is on some of the layers, and has another rank."""
    model = case.adapted()
    with torch.random.fork_rng():
        torch.manual_seed(2)  # with some random matrices both adapters happen to generate the same tokens
        model.add_adapter("other", case.config(r=3, target_modules=case.targets[:2]))
    return model.eval()


def rows(case, model, *names):
    """The logits of each row i with the adapter names[i] alone."""
    logits = []
    for i, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                logits.append(case.logits(model)[i])
        else:
            model.set_adapter(name)
            logits.append(case.logits(model)[i])
    model.set_adapter("default")
    return torch.stack(logits)


@pytest.mark.parametrize("names", [["default", "other"], ["other", "__base__"], ["other", "other"]])
def test_each_row_has_its_adapter(case, two, names):
    with torch.no_grad():
        mixed = two(**case.inputs, adapter_names=names).logits
    assert_close(mixed, rows(case, two, *names))
    assert not torch.allclose(mixed, rows(case, two, *names[::-1]), atol=1e-3) or names[0] == names[1]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_each_row_generates_with_its_adapter(case, two, options):
    tokens = case.inputs["input_ids"]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": 0, "do_sample": False} | options
    mixed = two.generate(input_ids=tokens, adapter_names=["default", "other"], **options)
    alone = []
    for i, name in enumerate(("default", "other")):
        two.set_adapter(name)
        alone.append(two.generate(input_ids=tokens[i : i + 1], **options))
    assert torch.equal(mixed, torch.cat(alone))
    assert not torch.equal(*alone)


def test_modules_to_save_follow_the_rows(llama):
    model = llama.adapted(modules_to_save=["lm_head"])
    torch.nn.init.ones_(model.get_base_model().lm_head.modules_to_save["default"].weight)
    with torch.no_grad():
        mixed = model(**llama.inputs, adapter_names=["__base__", "default"]).logits
    assert_close(mixed, rows(llama, model, "__base__", "default"))


def test_a_batch_after_a_mixed_batch_has_the_active_adapter(llama):
    model = llama.adapted()
    before = llama.logits(model)
    with torch.no_grad():
        model(**llama.inputs, adapter_names=["__base__", "__base__"])
    assert torch.equal(llama.logits(model), before)


def test_disabled_adapters_ignore_the_names(llama):
    model = llama.adapted()
    with torch.no_grad(), model.disable_adapter():
        mixed = model(**llama.inputs, adapter_names=["default", "default"]).logits
    assert torch.equal(mixed, llama.logits(llama.base()))


def test_names_that_fit_no_batch_are_refused(llama):
    model = llama.adapted()
    with pytest.raises(ValueError, match="one name for each of the 2 rows, got 3"):
        model(**llama.inputs, adapter_names=["default"] * 3)
    with pytest.raises(ValueError, match="unknown name 'x'; allowed: __base__, default"):
        model(**llama.inputs, adapter_names=["default", "x"])
    with pytest.raises(ValueError, match="alora_offsets belongs to a variant of LoRA"):
        model(**llama.inputs, alora_offsets=[1, 1])
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        model.train()(**llama.inputs, adapter_names=["default", "default"])
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match=r"while \['default'\] are merged"):
        model(**llama.inputs, adapter_names=["default", "default"])


def test_the_weighted_sum_has_the_number_format_of_the_first_adapter(llama):
    model = llama.adapted().to(torch.bfloat16)
    model.add_adapter("other", llama.config())
    for layer in llama.layers(model).values():
        layer.mora_M["other"].data = layer.mora_M["other"].data.float()
    model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")
    assert {layer.mora_M["sum"].dtype for layer in llama.layers(model).values()} == {torch.bfloat16}


def test_the_weighted_sum_is_exact(case, tmp_path):
    model = case.adapted()
    model.add_adapter("other", case.config())
    before = case.logits(model)
    model.add_weighted_adapter(["default", "other"], [0.7, -1.5], "sum")
    assert torch.equal(case.logits(model), before), "the new adapter must not be active"
    for layer in case.layers(model).values():
        first, second, total = (layer.get_delta_weight(name) for name in ("default", "other", "sum"))
        assert_close(total, 0.7 * first - 1.5 * second)
        assert not layer.mora_M["sum"].requires_grad
    model.set_adapter("sum")
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    assert torch.equal(case.logits(PeftModel.from_pretrained(case.base(), tmp_path / "sum")), case.logits(model))


def test_the_sum_has_a_configuration_of_its_own(llama):
    model = llama.adapted(rank_pattern={"q_proj": 3})
    model.add_weighted_adapter(["default"], [2.0], "sum")
    first, total = (model.peft_config[name] for name in ("default", "sum"))
    assert total == first
    total.target_modules.clear()
    total.rank_pattern.clear()
    assert (first.target_modules, first.rank_pattern) == (set(llama.targets), {"q_proj": 3})


@pytest.mark.parametrize(
    "options",
    [
        {"r": 3},
        {"operator": "rotation"},
        {"in_groups": "contiguous"},
        {"rank_pattern": {"q_proj": 3}},
        {"target_modules": ["q_proj"]},
        {"wrap": False},
    ],
    ids=str,
)
def test_adapters_whose_sum_is_no_adapter_are_refused(llama, options):
    model = llama.adapted()
    model.add_adapter("other", llama.config(**options))
    with pytest.raises(ValueError, match="'default' and 'other' differ in their layers, their operator or their r_hat"):
        model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")
    assert set(model.peft_config) == {"default", "other"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["default"], [1.0], "sum", "ties"), "combination_type must be linear, got 'ties'"),
        ((["default"], [1.0, 2.0], "sum"), "each adapter needs one weight, got 1 adapters and 2 weights"),
        (([], [], "sum"), "each adapter needs one weight"),
        ((["x"], [1.0], "sum"), "there is no adapter 'x'; allowed: default"),
        ((["default"], [1.0], "default"), "there is an adapter 'default' already"),
        ((["default"], [1.0], "a.b"), "adapter_name must be a name without a dot, got 'a.b'"),
        ((["default"], [float("nan")], "sum"), "weights must be finite"),
    ],
)
def test_sums_that_are_refused(llama, arguments, message):
    model = llama.adapted()
    with pytest.raises(ValueError, match=message):
        model.add_weighted_adapter(*arguments)
    assert set(model.peft_config) == {"default"}


def test_whole_modules_have_no_sum(llama):
    model = llama.adapted(modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="'default' has trained biases or modules_to_save"):
        model.add_weighted_adapter(["default"], [1.0], "sum")


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_dropout_drops_the_same_features_in_both_passes_of_checkpointing(case, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = case.adapted(mora_dropout=0.5).train()
        if checkpointing:
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": use_reentrant})
            model.get_base_model().enable_input_require_grads()
        torch.manual_seed(0)
        gradients.append(case.gradients(model))
    plain, recomputed = gradients
    assert set(plain) == set(recomputed)
    for name, gradient in recomputed.items():
        assert_close(gradient, plain[name])
