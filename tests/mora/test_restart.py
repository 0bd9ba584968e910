"""Restarts keep the function, raise the rank, and clear the adapter's moments and no others."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mora import MoraConfig, checkpoint, operators, restart
from mora.spectrum import numerical_rank, spectra

TOKENS = torch.arange(24).view(2, 12) % 64
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, **sizes)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=48, n_layer=2, n_head=4, **special)).eval()


def with_mora(base=None, **options) -> PeftModel:
    settings = {"r": 2, "operator": "sharing", "init_weights": False, "target_modules": LINEARS} | options
    return get_peft_model(base or llama(), MoraConfig(**settings)).eval()


def with_lora(base=None, targets=LINEARS) -> PeftModel:
    model = get_peft_model(
        base or llama(), LoraConfig(r=2, lora_alpha=8, target_modules=targets, fan_in_fan_out="c_fc" in targets)
    ).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


MAKERS = {
    "mora": with_mora,
    "mora-contiguous": lambda: with_mora(in_groups="contiguous", out_groups="contiguous"),
    "mora-conv1d": lambda: with_mora(gpt2(), target_modules=["c_attn", "c_proj", "c_fc"]),
    "lora": with_lora,
    "lora-conv1d": lambda: with_lora(gpt2(), ["c_attn", "c_proj", "c_fc"]),
}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(TOKENS).logits


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("groups", restart.FOUR_GROUPINGS, ids="-".join)
def test_ranks_that_add_their_rows_or_columns_merge_what_one_process_merges(groups, wrap):
    """To the bit, over shapes that divide by nothing; as torch.chunk cuts a weight for its ranks."""
    for inputs, outputs, r_hat in [(48, 33, 6), (7, 16, 5), (12, 9, 11), (5, 4, 13)]:
        operator = operators.build(
            "sharing", inputs, outputs, r_hat, in_groups=groups[0], out_groups=groups[1], wrap=wrap
        )
        M, weight = torch.randn(r_hat, r_hat), torch.randn(outputs, inputs)
        whole = operator.add_delta_(weight.clone(), M)
        for ranks in (2, 3, 5):
            parts = zip(weight.chunk(ranks), whole.chunk(ranks), strict=True)
            first = 0
            for part, expected in parts:
                rows = slice(first, first := first + len(part))
                assert torch.equal(operator.part(rows, slice(0, inputs)).add_delta_(part.clone(), M), expected)
            first = 0
            for part, expected in zip(weight.chunk(ranks, 1), whole.chunk(ranks, 1), strict=True):
                columns = slice(first, first := first + part.shape[1])
                assert torch.equal(operator.part(slice(0, outputs), columns).add_delta_(part.clone(), M), expected)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_function_stays(make):
    model = make()
    before = logits(model)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), before, atol=1e-3), "the adapter does nothing: a weak test"
    restart.restart(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    with model.disable_adapter():  # all of it is in the base now
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_adapter_starts_anew_and_can_train(make):
    model = make()
    restart.restart(model)
    zero = [p for n, p in model.named_parameters() if "mora_M" in n or "lora_B" in n]
    assert zero
    assert all(not p.any() for p in zero)
    assert all(p.requires_grad for n, p in model.named_parameters() if "mora_" in n or "lora_" in n)
    model.train()(TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in zero)


def test_lora_draws_a_again():
    model = with_lora()
    before = {n: p.clone() for n, p in model.named_parameters() if "lora_A" in n}
    restart.restart(model)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if "lora_A" in n)


def test_the_groupings_alternate_and_the_config_follows():
    model = with_mora()
    seen = []
    for _ in range(4):
        restart.restart(model)
        config = model.peft_config["default"]
        layer = next(iter(restart.adapted_layers(model)))[1]
        assert layer.mora_operator["default"] == config.build_operator(layer.in_features, layer.out_features)
        seen.append((config.in_groups, config.out_groups))
    assert seen == [("contiguous",) * 2, ("strided",) * 2] * 2


def test_the_four_type_cycle():
    model, seen = with_mora(), []
    for _ in range(5):
        restart.restart(model, cycle=restart.FOUR_GROUPINGS)
        seen.append((model.peft_config["default"].in_groups, model.peft_config["default"].out_groups))
    assert seen == [*restart.FOUR_GROUPINGS[1:], *restart.FOUR_GROUPINGS[:2]]


def accumulated(size: int, r: int, restarts: int, cycle) -> int:
    """Rank of the change of one layer's weight after several trained-then-merged M."""
    linear = torch.nn.Sequential(torch.nn.Linear(size, size, bias=False))
    torch.nn.init.zeros_(linear[0].weight)
    config = MoraConfig(r=r, operator="sharing", init_weights=False, target_modules=["0"])
    model = get_peft_model(linear.double(), config, autocast_adapter_dtype=False)
    for _ in range(restarts):
        for name, parameter in model.named_parameters():
            if "mora_M" in name:
                torch.nn.init.normal_(parameter)
        restart.restart(model, cycle=cycle)
    return numerical_rank(model.get_base_model()[0].get_base_layer().weight)


def test_the_rank_of_the_sum_grows():
    assert accumulated(256, 8, 1, restart.TWO_GROUPINGS) == 64
    assert accumulated(256, 8, 2, restart.TWO_GROUPINGS) == 112
    assert accumulated(256, 8, 4, restart.TWO_GROUPINGS) == 112
    assert accumulated(256, 8, 4, restart.FOUR_GROUPINGS) == 112  # the other two types add nothing
    assert accumulated(256, 8, 4, (("strided", "strided"),)) == 64


def stepped(train_rest: bool = False):
    """A model and an AdamW that has taken two steps."""
    model = with_mora().train()
    if train_rest:
        model.get_base_model().model.embed_tokens.weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_the_reset_touches_all_of_the_adapters_moments_and_none_of_the_others():
    model, optimizer = stepped(train_rest=True)
    adapter = [p for n, p in model.named_parameters() if "mora_M" in n]
    embedding = model.get_base_model().model.embed_tokens.weight
    kept = copy.deepcopy(optimizer.state[embedding])
    assert all(optimizer.state[p]["exp_avg"].any() and optimizer.state[p]["step"] == 2 for p in adapter)
    assert restart.reset_optimizer(optimizer, adapter) == len(adapter) == 14
    for parameter in adapter:
        state = optimizer.state[parameter]
        assert not state["exp_avg"].any()
        assert not state["exp_avg_sq"].any()
        assert state["step"] == 0
    for name, value in optimizer.state[embedding].items():
        assert torch.equal(value, kept[name])


def test_after_a_reset_the_next_step_is_that_of_a_new_optimizer():
    model, optimizer = stepped()
    fresh = copy.deepcopy(model)
    restart.reset_optimizer(optimizer, [p for n, p in model.named_parameters() if "mora_M" in n])
    other = torch.optim.AdamW([p for p in fresh.parameters() if p.requires_grad], lr=1e-2)
    for m, o in ((model, optimizer), (fresh, other)):
        m(TOKENS, labels=TOKENS).loss.backward()
        o.step()
    for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("how", ["magnitude", "random"])
def test_pruning_clears_a_share(how):
    _, optimizer = stepped()
    before = {id(p): s["exp_avg"].clone() for p, s in optimizer.state.items()}
    restart.reset_optimizer(optimizer, optimizer.state, how, 0.75)
    kept, total = 0, 0
    for p, state in optimizer.state.items():
        assert state["step"] == 2
        survives = state["exp_avg"] != 0
        assert torch.equal(state["exp_avg"][survives], before[id(p)][survives])
        if how == "magnitude":
            cleared = before[id(p)][~survives].abs()
            assert cleared.max() <= before[id(p)][survives].abs().min()
        kept, total = kept + int(survives.sum()), total + survives.numel()
    assert kept / total == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("how", ["zero", "magnitude", "random"])
def test_sharded_moments_are_cleared_as_whole_ones_are(how):
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        plain = torch.nn.Parameter(torch.randn(6, 5))
        optimizer = torch.optim.AdamW([plain])
        plain.grad = torch.randn(6, 5)
        optimizer.step()
        sharded = torch.nn.Parameter(distribute_tensor(plain.detach().clone(), mesh, [Shard(0)]))
        other = torch.optim.AdamW([sharded])
        other.state[sharded] = {
            name: distribute_tensor(value.clone(), mesh, [Shard(0)]) if value.ndim else value.clone()
            for name, value in optimizer.state[plain].items()
        }
        for each, parameter in ((optimizer, plain), (other, sharded)):
            torch.manual_seed(1)
            assert restart.reset_optimizer(each, [parameter], how) == 1
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[plain][name], other.state[sharded][name].full_tensor())
            assert (optimizer.state[plain][name] == 0).sum() >= 20
    finally:
        distributed.destroy_process_group()


def test_a_reset_refuses_what_it_does_not_know():
    _, optimizer = stepped()
    with pytest.raises(ValueError, match="one of zero, magnitude, random, got 'half'"):
        restart.reset_optimizer(optimizer, [], "half")
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\], got 0"):
        restart.reset_optimizer(optimizer, [], "random", 0)


@pytest.mark.parametrize("operator", ["rotation", "decouple", "truncation"])
def test_only_sharing_restarts(operator):
    with pytest.raises(ValueError, match=f"{operator} has no second grouping"):
        restart.check(with_mora(operator=operator))


def test_dora_and_models_without_adapters_are_refused():
    with pytest.raises(ValueError, match="only plain LoRA"):
        restart.check(get_peft_model(llama(), LoraConfig(use_dora=True, target_modules=LINEARS)))
    with pytest.raises(ValueError, match="no layer carries"):
        restart.check(with_mora(), "other")


def test_quantized_layers_are_refused(monkeypatch):
    model = with_mora()
    _, layer = next(iter(restart.adapted_layers(model)))
    monkeypatch.setattr(layer, "quantization_backend", object())
    with pytest.raises(ValueError, match="a quantized base weight would be rounded again at every merge"):
        restart.check(model)
    # PEFT's LoRA on a quantized layer is a class of its own.
    model = with_lora()
    quantized = type("Linear4bit", (LoraLayer,), {"__init__": lambda self: None, "__module__": "peft.tuners.lora.bnb"})
    other = quantized()
    monkeypatch.setattr(other.__class__, "_get_available_adapters", lambda self: {"default"})
    monkeypatch.setattr(type(model.get_base_model()), "named_modules", lambda self: [("layers.0.q_proj", other)])
    with pytest.raises(ValueError, match=r"layers\.0\.q_proj: only plain LoRA and MoRA.*not bnb\.Linear4bit"):
        restart.check(model)


def test_an_optimizer_of_zero_is_refused_before_anything_is_touched():
    zero = type("DeepSpeedZeroOptimizer", (torch.optim.AdamW,), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"})
    optimizer = zero([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(ValueError, match="restarts do not work under DeepSpeed's ZeRO"):
        restart.reset_optimizer(optimizer, [])


@pytest.mark.parametrize("restarts", [0, 1, 2, 9])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_restarted_model_is_saved_and_loaded_without_its_history(make, restarts, tmp_path):
    model, updates = make(), []
    base = gpt2 if "gpt2" in type(model.get_base_model()).__name__.lower() else llama
    for _ in range(restarts):
        updates += restart.restart(model)
        for name, parameter in model.named_parameters():
            if "mora_M" in name or "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    checkpoint.save_base(model, updates, tmp_path)
    assert (tmp_path / checkpoint.BASE_FILE).exists() == bool(restarts)
    assert torch.equal(logits(checkpoint.load_restarted(base(), tmp_path).eval()), expected)


def test_the_smaller_form_of_the_merged_base_is_stored(tmp_path):
    from safetensors import safe_open

    model, updates, kinds = with_mora(), [], []
    for _ in range(20):
        updates += restart.restart(model)
        checkpoint.save_base(model, updates, tmp_path)
        with safe_open(tmp_path / checkpoint.BASE_FILE, "pt") as file:
            kinds.append({name.partition(":")[0] for name in file.keys()})
    weights = sum(checkpoint.size(restart.base_weight(layer)) for _, layer in restart.adapted_layers(model))
    assert kinds[0] == {"update"}
    assert kinds[-1] == {"merged"}
    assert (tmp_path / checkpoint.BASE_FILE).stat().st_size < 1.1 * weights


def test_what_trains_beside_the_adapters_is_saved_too(tmp_path):
    model = with_mora()
    for name, parameter in model.get_base_model().named_parameters():
        if "norm" in name or "embed" in name:
            parameter.requires_grad_(True).data.add_(0.1)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    checkpoint.save_base(model, [], tmp_path)
    assert torch.equal(logits(checkpoint.load_restarted(llama(), tmp_path).eval()), expected)


def test_a_base_file_of_another_model_is_refused(tmp_path):
    model = with_mora()
    checkpoint.save_base(model, restart.restart(model), tmp_path)
    with pytest.raises(ValueError, match=r"holds weights of model\.layers.*does not have"):
        checkpoint.load_base(gpt2(), tmp_path)


def test_spectra_count_per_projection():
    a, b = torch.diag(torch.tensor([3.0, 0.5, 0.05])), torch.diag(torch.tensor([1.0, 0.01, 0.0]))
    found = spectra([("layers.0.q_proj", a), ("layers.1.q_proj", b), ("layers.0.v_proj", b)])
    assert found["q_proj"] == {"above": 1.5, "largest": 2.0, "layers": 2}
    assert found["v_proj"] == {"above": 1.0, "largest": 1.0, "layers": 1}
