"""Restarts: the function stays, the rank rises, and only the adapter's optimizer state is cleared."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mora import MoraConfig, checkpoint, operators, restart
from mora.conversion import as_lora
from mora.spectrum import numerical_rank, spectra

from ..process_groups import on_two_ranks, one_rank

TOKENS = torch.arange(24).view(2, 12) % 64
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(**options) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, **sizes, **options)).eval()


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


MODELS = {
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
def test_a_sharded_merge_gives_the_same_bits_as_one_process(groups, wrap):
    """Each rank has a chunk of the rows or columns. The sizes are not divisible by r_hat and the number of ranks."""
    for inputs, outputs, r_hat in [(48, 33, 6), (7, 16, 5), (12, 9, 11), (5, 4, 13)]:
        operator = operators.build(
            "sharing", inputs, outputs, r_hat, in_groups=groups[0], out_groups=groups[1], wrap=wrap
        )
        M, weight = torch.randn(r_hat, r_hat), torch.randn(outputs, inputs)
        merged = operator.add_delta_(weight.clone(), M)
        for ranks in (2, 3, 5):
            first = 0
            for part, expected in zip(weight.chunk(ranks), merged.chunk(ranks), strict=True):
                rows = slice(first, first := first + len(part))
                assert torch.equal(operator.part(rows, slice(0, inputs)).add_delta_(part.clone(), M), expected)
            first = 0
            for part, expected in zip(weight.chunk(ranks, 1), merged.chunk(ranks, 1), strict=True):
                columns = slice(first, first := first + part.shape[1])
                assert torch.equal(operator.part(slice(0, outputs), columns).add_delta_(part.clone(), M), expected)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_function_stays(build):
    model = build()
    before = logits(model)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), before, atol=1e-3), (
            "the adapter has no effect, so the test proves nothing"
        )
    restart.restart(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    with model.disable_adapter():  # the base weights hold the whole update
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_adapter_is_initialised_again_and_can_be_trained(build):
    model = build()
    restart.restart(model)
    matrices = [p for n, p in model.named_parameters() if "mora_M" in n or "lora_B" in n]
    assert matrices
    assert all(not p.any() for p in matrices)
    assert all(p.requires_grad for n, p in model.named_parameters() if "mora_" in n or "lora_" in n)
    model.train()(TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in matrices)


def test_a_restart_of_lora_draws_a_again():
    model = with_lora()
    before = {n: p.clone() for n, p in model.named_parameters() if "lora_A" in n}
    restart.restart(model)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if "lora_A" in n)


def test_the_groupings_alternate_in_the_layers_and_in_the_config():
    model = with_mora()
    groupings = []
    for _ in range(4):
        restart.restart(model)
        config = model.peft_config["default"]
        layer = next(iter(restart.adapted_layers(model)))[1]
        assert layer.mora_operator["default"] == config.build_operator(layer.in_features, layer.out_features)
        groupings.append((config.in_groups, config.out_groups))
    assert groupings == [("contiguous",) * 2, ("strided",) * 2] * 2


def test_a_restart_keeps_the_rank_of_each_layer():
    model = with_mora(rank_pattern={"up_proj": 3})
    before = logits(model)
    restart.restart(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    for _, layer in restart.adapted_layers(model):
        assert layer.mora_operator["default"].r_hat == len(layer.mora_M["default"])


def test_the_cycle_of_four_groupings():
    model, groupings = with_mora(), []
    for _ in range(5):
        restart.restart(model, cycle=restart.FOUR_GROUPINGS)
        groupings.append((model.peft_config["default"].in_groups, model.peft_config["default"].out_groups))
    assert groupings == [*restart.FOUR_GROUPINGS[1:], *restart.FOUR_GROUPINGS[:2]]


def test_a_cycle_with_a_grouping_twice_is_refused():
    """The place of the grouping in force would not be clear: after its second place its first one would follow."""
    model, (first, second, third, _) = with_mora(), restart.FOUR_GROUPINGS
    before = logits(model)
    with pytest.raises(ValueError, match="the groupings of a cycle must differ, got"):
        restart.restart(model, cycle=(first, second, first, third))
    torch.testing.assert_close(logits(model), before, atol=0, rtol=0)


def rank_after_restarts(restarts: int, cycle, size: int = 256, r: int = 8) -> int:
    """The rank of a weight (size, size), zero at first, after several restarts with a random M each."""
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
    assert rank_after_restarts(1, restart.TWO_GROUPINGS) == 64
    assert rank_after_restarts(2, restart.TWO_GROUPINGS) == 112
    assert rank_after_restarts(4, restart.TWO_GROUPINGS) == 112
    assert rank_after_restarts(4, restart.FOUR_GROUPINGS) == 112  # the last two groupings add no rank
    assert rank_after_restarts(4, (("strided", "strided"),)) == 64


def model_and_optimizer(train_embedding: bool = False):
    """A model and an AdamW after two steps."""
    model = with_mora().train()
    if train_embedding:
        model.get_base_model().model.embed_tokens.weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_the_reset_clears_the_state_of_the_adapter_and_no_other_state():
    model, optimizer = model_and_optimizer(train_embedding=True)
    adapter = [p for n, p in model.named_parameters() if "mora_M" in n]
    embedding = model.get_base_model().model.embed_tokens.weight
    embedding_state = copy.deepcopy(optimizer.state[embedding])
    assert all(optimizer.state[p]["exp_avg"].any() and optimizer.state[p]["step"] == 2 for p in adapter)
    assert restart.reset_optimizer(optimizer, adapter) == len(adapter) == 14
    for parameter in adapter:
        state = optimizer.state[parameter]
        assert not state["exp_avg"].any()
        assert not state["exp_avg_sq"].any()
        assert state["step"] == 0
    for name, value in optimizer.state[embedding].items():
        assert torch.equal(value, embedding_state[name])


def test_after_a_reset_the_next_step_equals_the_first_step_of_a_new_optimizer():
    model, optimizer = model_and_optimizer()
    twin = copy.deepcopy(model)
    restart.reset_optimizer(optimizer, [p for n, p in model.named_parameters() if "mora_M" in n])
    new_optimizer = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=1e-2)
    for m, o in ((model, optimizer), (twin, new_optimizer)):
        m(TOKENS, labels=TOKENS).loss.backward()
        o.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("how", ["magnitude", "random"])
def test_magnitude_and_random_clear_a_share_of_the_entries(how):
    _, optimizer = model_and_optimizer()
    before = {id(p): s["exp_avg"].clone() for p, s in optimizer.state.items()}
    restart.reset_optimizer(optimizer, optimizer.state, how, 0.75)
    nonzero, total = 0, 0
    for p, state in optimizer.state.items():
        assert state["step"] == 2
        mask = state["exp_avg"] != 0
        assert torch.equal(state["exp_avg"][mask], before[id(p)][mask])
        if how == "magnitude":
            assert before[id(p)][~mask].abs().max() <= before[id(p)][mask].abs().min()
        nonzero, total = nonzero + int(mask.sum()), total + mask.numel()
    assert nonzero / total == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("how", ["zero", "magnitude", "random"])
def test_the_reset_of_sharded_moments_equals_the_reset_of_plain_ones(how):
    with one_rank():
        mesh = init_device_mesh("cpu", (1,))
        plain = torch.nn.Parameter(torch.randn(6, 5))
        optimizer = torch.optim.AdamW([plain])
        plain.grad = torch.randn(6, 5)
        optimizer.step()
        sharded = torch.nn.Parameter(distribute_tensor(plain.detach().clone(), mesh, [Shard(0)]))
        sharded_optimizer = torch.optim.AdamW([sharded])
        sharded_optimizer.state[sharded] = {
            name: distribute_tensor(value.clone(), mesh, [Shard(0)]) if value.ndim else value.clone()
            for name, value in optimizer.state[plain].items()
        }
        for o, parameter in ((optimizer, plain), (sharded_optimizer, sharded)):
            torch.manual_seed(1)
            assert restart.reset_optimizer(o, [parameter], how) == 1
        for name in ("exp_avg", "exp_avg_sq"):
            moment = optimizer.state[plain][name]
            assert torch.equal(moment, sharded_optimizer.state[sharded][name].full_tensor())
            assert (moment == 0).sum() >= 20


@pytest.mark.parametrize("adapted", [with_mora, with_lora])
def test_a_restart_after_a_forward_pass_that_left_whole_copies_of_sharded_weights(adapted, tmp_path):
    """FSDP2 with reshard_after_forward=False drops these copies at the next backward pass."""
    with one_rank():
        model = adapted()
        expected = logits(model)
        mesh = init_device_mesh("cpu", (1,))
        for module in (*model.get_base_model().model.layers, model):
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        logits(model)
        updates = restart.restart(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert restart.reset_optimizer(optimizer, trained) == len(trained)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
        checkpoint.save_base(model, updates, tmp_path)
        again = llama()
        fully_shard(again, mesh=mesh, reshard_after_forward=False)
        logits(again)
        checkpoint.load_base(again, tmp_path)
        again.reshard()
        torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=1e-5)


def restart_on_a_rank(folder: Path) -> None:
    """One of two ranks with the same model and other random states: a restart and a random reset."""
    rank = distributed.get_rank()
    model = with_lora(targets=["q_proj"])
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values())
    model(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    torch.manual_seed(rank)
    restart.restart(model)
    restart.reset_optimizer(optimizer, parameters.values(), "random", 0.5)
    moments = {f"moment of {name}": optimizer.state[p]["exp_avg"] for name, p in parameters.items()}
    save_file({**parameters, **moments}, folder / f"{rank}.safetensors")


def test_all_ranks_have_the_same_adapter_and_moments_after_a_restart(tmp_path):
    on_two_ranks(functools.partial(restart_on_a_rank, tmp_path), tmp_path)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_a_restart_of_lora_draws_what_peft_draws():
    model = with_lora()
    torch.manual_seed(1)
    restart.restart(model)
    torch.manual_seed(1)
    for _, layer in restart.adapted_layers(model):
        own = layer.lora_A["default"].weight.clone()
        layer.reset_lora_parameters("default", True)
        assert torch.equal(layer.lora_A["default"].weight, own)


def test_a_reset_refuses_parameters_of_another_model():
    _, optimizer = model_and_optimizer()
    with pytest.raises(ValueError, match="none of the 1 parameters to reset is in the param_groups"):
        restart.reset_optimizer(optimizer, [torch.nn.Parameter(torch.ones(2))])


def test_a_reset_refuses_unknown_values():
    _, optimizer = model_and_optimizer()
    with pytest.raises(ValueError, match="one of zero, magnitude, random, got 'half'"):
        restart.reset_optimizer(optimizer, [], "half")
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\], got 0"):
        restart.reset_optimizer(optimizer, [], "random", 0)


@pytest.mark.parametrize("operator", ["rotation", "decouple", "truncation"])
def test_only_the_sharing_operator_can_be_restarted(operator):
    with pytest.raises(ValueError, match=f"{operator} has no second grouping"):
        restart.check(with_mora(operator=operator))


NOT_PLAIN = [
    ("DoRA or LoRA with a bias", {"use_dora": True}),
    ("DoRA or LoRA with a bias", {"lora_bias": True}),
    ("its variant ALoraLinearVariant", {"alora_invocation_tokens": [6, 7], "task_type": "CAUSAL_LM"}),
    ("its variant MiCALinearVariant", {"init_lora_weights": "mica"}),
]


@pytest.mark.parametrize(("kind", "options"), NOT_PLAIN)
def test_a_lora_that_is_not_plain_is_refused(kind, options):
    base = llama(attention_bias=True)
    with pytest.raises(ValueError, match=f"q_proj: only plain LoRA can be restarted, not {kind}"):
        restart.check(get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], **options)))


@pytest.mark.filterwarnings("ignore:.*eva")
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", True, False, "gaussian", "eva", "orthogonal"])
def test_a_lora_that_changes_the_base_weights_at_its_start_is_refused(init):
    """Its updates would be added to the pretrained weights again, which are others than those it was trained on."""
    base = llama()
    before = base.model.layers[0].self_attn.q_proj.weight.clone()
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=init))
    if torch.equal(base.model.layers[0].self_attn.q_proj.weight, before):
        restart.check(model)
        return
    with pytest.raises(ValueError, match=f"q_proj: init_lora_weights='{init}' may change .* allowed: True, False, gau"):
        restart.check(model)


def test_models_without_adapters_are_refused():
    with pytest.raises(ValueError, match="no layer has"):
        restart.check(with_mora(), "other")


def test_quantized_layers_are_refused(monkeypatch):
    model = with_mora()
    _, layer = next(iter(restart.adapted_layers(model)))
    monkeypatch.setattr(layer, "quantization_backend", object())
    with pytest.raises(ValueError, match="a quantized base weight would be rounded again at every merge"):
        restart.check(model)
    # PEFT has other classes for LoRA on a quantized layer.
    model = with_lora()
    quantized = type("Linear4bit", (LoraLayer,), {"__init__": lambda self: None, "__module__": "peft.tuners.lora.bnb"})
    monkeypatch.setattr(quantized, "_get_available_adapters", lambda self: {"default"})
    monkeypatch.setattr(type(model.get_base_model()), "named_modules", lambda self: [("layers.0.q_proj", quantized())])
    with pytest.raises(ValueError, match=r"layers\.0\.q_proj: only plain LoRA and MoRA.*not bnb\.Linear4bit"):
        restart.check(model)


@pytest.mark.parametrize("adapted", [with_mora, lambda base, target_modules: with_lora(base, target_modules)])
def test_a_weight_that_another_module_holds_too_is_refused(adapted):
    """A merge into a head that is tied to the embedding would change the embedding, and so the function."""
    base = llama(tie_word_embeddings=True)
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        model = adapted(base, target_modules=["lm_head", "q_proj"])
    with pytest.raises(ValueError, match=r"^lm_head: its weight is also the weight of model\.embed_tokens; a merge"):
        restart.check(model)
    restart.check(with_mora(llama(), target_modules=["lm_head", "q_proj"]))


@pytest.mark.parametrize("tie", [lambda w: w.detach(), lambda w: w.detach().T, lambda w: w.detach()[1:2]])
def test_a_weight_whose_memory_another_module_uses_too_is_refused(tie):
    base = llama()
    base.get_input_embeddings().weight = torch.nn.Parameter(tie(base.lm_head.weight))
    model = with_mora(base, target_modules=["lm_head", "q_proj"])
    with pytest.raises(ValueError, match=r"^lm_head: its weight is also the weight of model\.embed_tokens; a merge"):
        restart.check(model)


def test_weights_beside_each_other_in_one_memory_can_be_restarted():
    base = llama()
    weights = list(base.parameters())
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(weights).detach(), weights)
    model = with_mora(base)
    before = logits(model)
    restart.restart(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


def test_the_weights_of_a_model_without_memory_share_none():
    with torch.device("meta"):
        base = llama()
    assert restart.sharers(base) == {}


def test_a_restart_of_an_untied_head_keeps_the_function():
    model = with_mora(llama(), target_modules=["lm_head", "q_proj"])
    before = logits(model)
    restart.restart(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


def test_an_optimizer_of_zero_is_refused():
    zero = type("DeepSpeedZeroOptimizer", (torch.optim.AdamW,), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"})
    optimizer = zero([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(ValueError, match="restarts do not work under DeepSpeed's ZeRO"):
        restart.reset_optimizer(optimizer, [])


def test_an_optimizer_is_recognised_in_the_wrappers_of_accelerate():
    """A callback of the Trainer gets the wrapper: DeepSpeed's own class is inside."""

    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    parameter = torch.nn.Parameter(torch.ones(2))
    zero = type("DeepSpeedZeroOptimizer", (torch.optim.AdamW,), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"})
    with pytest.raises(ValueError, match="restarts do not work under DeepSpeed's ZeRO"):
        restart.check_optimizer(Wrapper(zero([parameter])))
    adam = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    adam.step()
    assert restart.reset_optimizer(Wrapper(Wrapper(adam)), [parameter]) == 1
    assert adam.state[parameter]["step"] == 0


def test_a_reset_clears_the_maximum_of_amsgrad():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], amsgrad=True)
    parameter.grad = torch.full((3,), 10.0)
    optimizer.step()
    restart.reset_optimizer(optimizer, [parameter])
    assert all(not value.any() for value in optimizer.state[parameter].values())


def test_an_optimizer_with_another_state_than_adams_is_refused_before_anything_changes():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(2)
    optimizer.step()
    with pytest.raises(
        ValueError, match=r"do not work with SGD of torch\.optim\.sgd: its state has no exp_avg; use AdamW"
    ):
        restart.reset_optimizer(optimizer, [parameter])
    assert optimizer.state[parameter]["momentum_buffer"].any()
    eight_bit = type("AdamW8bit", (torch.optim.AdamW,), {"__module__": "bitsandbytes.optim.adamw"})
    with pytest.raises(ValueError, match=r"AdamW8bit of bitsandbytes\.optim\.adamw: it may keep its state in 8 bits"):
        restart.check_optimizer(eight_bit([parameter]))


def merged(model) -> PeftModel:
    model.merge_adapter()
    return model


def beside_another(model) -> PeftModel:
    """The model with a second adapter, which is active."""
    model.add_adapter("second", copy.copy(model.peft_config["default"]))
    model.set_adapter("second")
    return model


def disabled(model) -> PeftModel:
    model.base_model.disable_adapter_layers()
    return model


@pytest.mark.parametrize("kind", ["SGD", "Adafactor", "Adamax", "NAdam"])
@pytest.mark.parametrize("steps", [0, 1])
def test_another_optimizer_than_adam_is_refused_before_its_first_step_too(kind, steps):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = getattr(torch.optim, kind)([parameter], lr=0.1)
    for _ in range(steps):
        parameter.grad = torch.ones(2)
        optimizer.step()
    with pytest.raises(ValueError, match=f"restarts do not work with {kind} of torch.*; use AdamW"):
        restart.check_optimizer(optimizer)


def test_an_unknown_state_is_refused():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.state[parameter]["compensation"] = torch.ones(2)
    with pytest.raises(ValueError, match="its state has compensation, which a reset does not know"):
        restart.check_optimizer(optimizer)


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "RAdam", "SparseAdam"])
def test_after_a_reset_an_optimizer_like_adam_steps_as_a_new_one(kind):
    old, new = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizers = [getattr(torch.optim, kind)([p], lr=0.1) for p in (old, new)]

    def step(parameter, optimizer, gradient):
        parameter.grad = gradient.to_sparse() if kind == "SparseAdam" else gradient
        optimizer.step()

    for size in (3.0, 2.0, 1.0):
        step(old, optimizers[0], torch.full((3,), size))
    restart.reset_optimizer(optimizers[0], [old])
    new.data.copy_(old.data)
    for parameter, optimizer in zip((old, new), optimizers, strict=True):
        step(parameter, optimizer, torch.arange(3.0))
    assert torch.equal(old, new)


@pytest.mark.parametrize("how", ["zero", "magnitude", "random"])
def test_the_moments_of_a_transposed_parameter_are_cleared(how):
    parameter = torch.nn.Parameter(torch.randn(5, 4).T)
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.randn(4, 5)
    optimizer.step()
    moment = optimizer.state[parameter]["exp_avg"]
    before = moment.clone()
    assert not moment.is_contiguous()
    restart.reset_optimizer(optimizer, [parameter], how, 0.5)
    kept = moment != 0
    assert torch.equal(moment[kept], before[kept])
    if how == "magnitude":
        assert kept.sum() == 10
        assert before[~kept].abs().max() <= before[kept].abs().min()
    else:
        assert kept.sum() < 20


REFUSED = {
    "a merged MoRA": (lambda: merged(with_mora()), r"^model\.layers\.0.*q_proj: adapter 'default' is merged"),
    "a merged LoRA": (lambda: merged(with_lora()), r"^model\.layers\.0.*q_proj: adapter 'default' is merged"),
    "an inactive MoRA": (lambda: beside_another(with_mora()), "q_proj: adapter 'default' is not active"),
    "an inactive LoRA": (lambda: beside_another(with_lora()), "q_proj: adapter 'default' is not active"),
    "disabled adapters": (lambda: disabled(with_mora()), "q_proj: adapter 'default' is not active"),
    "another operator": (lambda: with_mora(operator="rotation"), "only the sharing operator can be restarted"),
    "a tied head": (lambda: with_mora(llama(tie_word_embeddings=True), target_modules=["lm_head"]), "a merge would"),
    "a grouping outside the cycle": (
        lambda: with_mora(in_groups="contiguous", out_groups="strided"),
        r"has the grouping \('contiguous', 'strided'\), which the cycle lacks; allowed: \('strided', 'strided'\), ",
    ),
    "no such adapter": (lambda: with_mora(), "no layer has a LoRA or MoRA adapter named 'other'"),
}


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True")
@pytest.mark.parametrize("case", REFUSED)
def test_a_restart_that_is_refused_changes_nothing(case):
    build, message = REFUSED[case]
    model = build()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        restart.restart(model, adapter="other" if case == "no such adapter" else "default")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_merged_adapter_is_neither_regrouped_nor_saved_with_its_base_nor_loaded_into(tmp_path):
    model = with_mora()
    updates = restart.restart(model)
    checkpoint.save_base(model, updates, tmp_path)
    model.merge_adapter()
    before = (tmp_path / checkpoint.BASE_FILE).read_bytes()
    with pytest.raises(ValueError, match="adapter 'default' is merged"):
        restart.regroup(model, "strided", "strided")
    with pytest.raises(ValueError, match="adapter 'default' is merged"):
        checkpoint.save_base(model, [], tmp_path, trained=True)
    with pytest.raises(ValueError, match="adapter 'default' is merged"):
        checkpoint.load_base(model, tmp_path)
    assert model.peft_config["default"].in_groups == "contiguous"
    assert (tmp_path / checkpoint.BASE_FILE).read_bytes() == before


def test_an_adapter_beside_another_active_one_can_be_restarted():
    model = beside_another(with_mora())
    model.base_model.set_adapter(["default", "second"])
    before = logits(model)
    restart.restart(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("restarts", [0, 1, 2, 9])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_restarted_model_loads_from_its_folder(build, restarts, tmp_path):
    model, updates = build(), []
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


def test_an_adapter_in_a_folder_below_loads_with_the_base_weights(tmp_path):
    """PEFT saves an adapter with another name than `default` in a folder of this name."""
    config = MoraConfig(r=2, operator="sharing", target_modules=list(LINEARS), init_weights=False)
    model = get_peft_model(llama(), config, adapter_name="mine")
    updates, folder = restart.restart(model, "mine"), tmp_path / "mine"
    for _, layer in restart.adapted_layers(model, "mine"):
        torch.nn.init.normal_(layer.mora_M["mine"], std=0.05)
    model.save_pretrained(tmp_path)
    checkpoint.save_base(model, updates, tmp_path, "mine")

    def loaded(folder, **options):
        return logits(checkpoint.load_restarted(llama(), folder, adapter_name="mine", **options).eval())

    assert torch.equal(loaded(tmp_path, subfolder="mine"), logits(model))
    with pytest.raises(
        ValueError, match=rf"^{folder} has no base.safetensors, but {tmp_path} has: .*subfolder='mine'$"
    ):
        loaded(folder)
    (tmp_path / checkpoint.BASE_FILE).rename(folder / checkpoint.BASE_FILE)
    assert torch.equal(loaded(tmp_path, subfolder="mine"), logits(model))
    assert torch.equal(loaded(folder), logits(model))


@pytest.mark.parametrize("load", [checkpoint.load_base, checkpoint.load_restarted])
def test_what_is_no_folder_holds_no_base_weights(load, tmp_path):
    for place in (tmp_path / "typo", "owner/name-on-the-hub"):
        with pytest.raises(ValueError, match=rf"^{place} must be a folder on this machine"):
            load(llama(), place)


def test_the_grouping_of_an_unknown_adapter_cannot_change():
    with pytest.raises(ValueError, match=r"^there is no adapter 'nope'; allowed: default$"):
        restart.regroup(with_mora(), "strided", "contiguous", "nope")


def test_the_smaller_form_of_the_merged_base_is_stored(tmp_path):
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


@pytest.mark.parametrize("adapted", [with_mora, with_lora])
def test_a_shortened_list_of_updates_gives_the_same_files_and_stops_growing(adapted, tmp_path):
    model, updates, short, sizes = adapted(), [], [], []
    for name in ("long", "short"):
        (tmp_path / name).mkdir()
    for _ in range(20):
        merged = restart.restart(model)
        updates += merged
        short = checkpoint.shortened(model, short + merged)
        sizes.append(sum(checkpoint.size(t) for update in short for t in update.tensors.values()))
        checkpoint.save_base(model, updates, tmp_path / "long")
        checkpoint.save_base(model, short, tmp_path / "short")
        files = [(tmp_path / name / checkpoint.BASE_FILE).read_bytes() for name in ("long", "short")]
        assert files[0] == files[1]
    assert sizes[0]
    assert not sizes[-1]
    assert len(short) == 14
    assert checkpoint.shortened(with_mora(), []) == []


@pytest.mark.parametrize("restarts", [1, 20])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_checkpoint_of_a_resumed_run_holds_what_was_merged_before(build, restarts, tmp_path):
    """Also where the first checkpoint holds merged weights, of which nobody knows the single updates any more."""
    model, updates = build(), []
    base = gpt2 if "gpt2" in type(model.get_base_model()).__name__.lower() else llama

    def train(model):
        for name, parameter in model.named_parameters():
            if "mora_M" in name or "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)

    def save(model, updates, folder):
        model.save_pretrained(folder)
        checkpoint.save_base(model, updates, folder)
        assert torch.equal(logits(checkpoint.load_restarted(base(), folder).eval()), logits(model))

    for _ in range(restarts):
        updates += restart.restart(model)
        train(model)
    save(model, updates, tmp_path / "first")
    resumed_base = base()
    updates = checkpoint.load_base(resumed_base, tmp_path / "first")
    resumed = PeftModel.from_pretrained(resumed_base, tmp_path / "first", is_trainable=True).eval()
    assert torch.equal(logits(resumed), logits(model))
    assert all(bool(update.tensors) == (restarts == 1) for update in updates)
    save(resumed, updates, tmp_path / "second")
    updates += restart.restart(resumed)
    train(resumed)
    save(resumed, updates, tmp_path / "third")
    if restarts > 1:
        with pytest.raises(ValueError, match="were saved as one merged weight, and cannot be added again"):
            updates[0].add_(torch.zeros(2, 2))


def test_an_adapter_that_exists_gets_the_grouping_of_the_saved_one(tmp_path):
    """`load_adapter` of PEFT, and the Trainer with it, read no configuration for an adapter that exists."""
    model = with_mora()
    updates = restart.restart(model)
    for name, parameter in model.named_parameters():
        if "mora_M" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path)
    checkpoint.save_base(model, updates, tmp_path)
    resumed = with_mora()
    assert resumed.peft_config["default"].in_groups != model.peft_config["default"].in_groups
    checkpoint.load_base(resumed, tmp_path)
    resumed.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(logits(resumed), logits(model))
    other = get_peft_model(llama(), MoraConfig(r=4, operator="sharing", target_modules=["q_proj"]), "other")
    before = other.peft_config["other"].in_groups
    checkpoint.load_base(other, tmp_path)  # the folder holds no adapter of this name
    assert other.peft_config["other"].in_groups == before


def test_a_model_of_transformers_with_an_adapter_is_no_peft_model():
    model = llama()
    model.add_adapter(MoraConfig(r=4, operator="sharing", target_modules=["q_proj"]))
    for function in (restart.check, restart.restart, as_lora, lambda model: checkpoint.save_base(model, [], "nowhere")):
        with pytest.raises(TypeError, match=r"^the model must be a PeftModel, .*, got LlamaForCausalLM$"):
            function(model)


def test_a_restarted_model_with_modules_to_save_loads_from_its_folder(tmp_path):
    """PEFT keeps a copy of such a module beside the base model, and saves the copy with the adapter."""
    model = with_mora(target_modules=["q_proj"], modules_to_save=["lm_head"])
    updates = restart.restart(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1)
    model.save_pretrained(tmp_path)
    checkpoint.save_base(model, updates, tmp_path)
    assert torch.equal(logits(checkpoint.load_restarted(llama(), tmp_path).eval()), logits(model))
    checkpoint.save_base(model, [], tmp_path, trained=True)
    assert torch.equal(logits(checkpoint.load_restarted(llama(), tmp_path).eval()), logits(model))


def test_trainable_parameters_beside_the_adapters_are_saved_too(tmp_path):
    model = with_mora()
    for name, parameter in model.get_base_model().named_parameters():
        if "norm" in name or "embed" in name:
            parameter.requires_grad_(True).data.add_(0.1)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    checkpoint.save_base(model, [], tmp_path)
    assert torch.equal(logits(checkpoint.load_restarted(llama(), tmp_path).eval()), expected)


def wrapped(model):
    """The base model with activation checkpointing around its blocks, as accelerate's FSDP sets it up."""
    model.model.layers = torch.nn.ModuleList(checkpoint_wrapper(block) for block in model.model.layers)
    return model


@pytest.mark.parametrize("restarts", [1, 20])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_saved_base_of_a_wrapped_model_loads_into_one_without_wrappers_and_back(restarts, compiled, tmp_path):
    model, updates = with_mora(), []
    network = wrapped(model.get_base_model())
    network.model.norm.weight.requires_grad_(True).data.add_(0.1)
    if compiled:
        network.model = torch.compile(network.model, backend="eager")
    for _ in range(restarts):
        updates += restart.restart(model)
    checkpoint.save_base(model, updates, tmp_path)
    for base in (llama(), wrapped(llama())):
        loaded = checkpoint.load_base(base, tmp_path)
        assert {update.layer for update in loaded} == {name for name, _ in restart.adapted_layers(with_mora())}
        assert torch.equal(logits(base), logits(model))  # M is zero after the restart


def test_the_base_file_of_an_earlier_save_is_removed(tmp_path):
    """Only by the rank that writes."""
    restarted = with_mora()
    updates = restart.restart(restarted)
    checkpoint.save_base(restarted, updates, tmp_path)
    model = with_mora()
    model.save_pretrained(tmp_path)
    checkpoint.save_base(model, [], tmp_path, write=False)
    assert (tmp_path / checkpoint.BASE_FILE).exists()
    checkpoint.save_base(model, [], tmp_path)
    assert torch.equal(logits(checkpoint.load_restarted(llama(), tmp_path).eval()), logits(model))


def test_a_trained_parameter_with_the_name_of_an_adapter_is_saved_too(tmp_path):
    def network():
        torch.manual_seed(0)
        return torch.nn.ModuleDict({name: torch.nn.Linear(4, 4) for name in ("a", "mora_head", "lora_head")})

    for adapted, name in ((with_mora, "mora_head"), (with_lora, "lora_head")):
        model = adapted(network(), ["a"]) if adapted is with_lora else with_mora(network(), target_modules=["a"])
        head = model.get_base_model()[name].weight
        head.requires_grad_(True).data.add_(1.0)
        assert [n for n, _ in checkpoint.trained_rest(model)] == [f"{name}.weight"]
        checkpoint.save_base(model, [], tmp_path)
        base = network()
        checkpoint.load_base(base, tmp_path)
        assert torch.equal(base[name].weight, head)


def test_a_base_file_of_another_model_is_refused(tmp_path):
    model = with_mora()
    checkpoint.save_base(model, restart.restart(model), tmp_path)
    with pytest.raises(ValueError, match=r"holds weights of model\.layers.*does not have"):
        checkpoint.load_base(gpt2(), tmp_path)


def test_spectra_average_over_the_layers_of_a_projection():
    a, b = torch.diag(torch.tensor([3.0, 0.5, 0.05])), torch.diag(torch.tensor([1.0, 0.01, 0.0]))
    result = spectra([("layers.0.q_proj", a), ("layers.1.q_proj", b), ("layers.0.v_proj", b)])
    assert result["q_proj"] == {"above": 1.5, "largest": 2.0, "layers": 2}
    assert result["v_proj"] == {"above": 1.0, "largest": 1.0, "layers": 1}


class Dialled(LoraLinear):
    """A layer of somebody's own tuner: its update is not B A."""

    def get_delta_weight(self, adapter):
        return 2 * super().get_delta_weight(adapter)


def test_a_layer_that_computes_another_update_than_lora_is_refused():
    """A merge would add B A, and change the function of the model without a word."""
    model = get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            layer.__class__ = Dialled
    with pytest.raises(ValueError, match=r"q_proj: only plain LoRA and MoRA .* not test_restart\.Dialled"):
        restart.check(model)
