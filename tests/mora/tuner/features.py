"""The table of docs/method.md that compares this tuner with PEFT's LoRA, feature by feature.

Each feature is tried with both tuners, on small models. A cell says what happened:

    yes       it works, and the result is right
    no        it is refused with an error
    ignored   it is accepted, and has no effect

`python -m tests.mora.tuner.features` writes the table into the page. A test compares the page with a new table.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import MambaConfig, MambaForCausalLM
from transformers.pytorch_utils import Conv1D

from mora import MoraConfig

from ...process_groups import one_rank
from .conftest import Case

PAGE = Path(__file__).parents[3] / "docs" / "method.md"
START, END = "<!-- features: start -->\n", "<!-- features: end -->\n"
LLAMA = Case("llama", "sharing")


@dataclass(frozen=True)
class Tuner:
    """LoRA or MoRA, with an update that is not zero."""

    name: str

    def config(self, **options: Any) -> Any:
        if self.name == "LoRA":
            return LoraConfig(**{"r": 2, "init_lora_weights": False} | options)
        return MoraConfig(**{"r": 2, "operator": "sharing", "init_weights": False} | options)

    def adapt(self, base: nn.Module, targets: Any, **options: Any) -> PeftModel:
        torch.manual_seed(1)
        return get_peft_model(base, self.config(target_modules=targets, **options)).eval()

    def llama(self, **options: Any) -> PeftModel:
        """An adapted LLaMA with two adapters, `default` and `other`. The first one is active."""
        model = self.adapt(LLAMA.base(), LLAMA.targets, **options)
        model.add_adapter("other", self.config(target_modules=LLAMA.targets, **options))
        return model.eval()

    def dropout(self, p: float) -> dict[str, float]:
        return {"lora_dropout" if self.name == "LoRA" else "mora_dropout": p}


@torch.no_grad()
def has_effect(model: PeftModel, *inputs: Any) -> bool:
    """Whether the output of the adapted model differs from that of its base."""

    def output() -> Any:
        result = model(*inputs)
        return getattr(result, "logits", result[0] if isinstance(result, tuple) else result)

    adapted = output()
    with model.disable_adapter():
        return not torch.allclose(adapted, output(), atol=1e-5)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4)


def alone(model: PeftModel, name: str) -> torch.Tensor:
    """The logits of all rows with one adapter."""
    model.set_adapter(name)
    return LLAMA.logits(model)


def rank_pattern(tuner: Tuner) -> bool:
    plain = tuner.adapt(LLAMA.base(), LLAMA.targets).get_nb_trainable_parameters()[0]
    return tuner.adapt(LLAMA.base(), LLAMA.targets, rank_pattern={"q_proj": 4}).get_nb_trainable_parameters()[0] > plain


@torch.no_grad()
def mixed_batch(tuner: Tuner) -> bool:
    model = tuner.llama()
    mixed = model(**LLAMA.inputs, adapter_names=["other", "__base__"]).logits
    return close(mixed[0], alone(model, "other")[0]) and close(mixed[1], LLAMA.logits(LLAMA.base())[1])


def mixed_generation(tuner: Tuner) -> bool:
    model, tokens = tuner.llama(), LLAMA.inputs["input_ids"]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": 0, "num_beams": 2}
    mixed = model.generate(tokens, **options, adapter_names=["default", "other"])
    rows = []
    for i, name in enumerate(("default", "other")):
        model.set_adapter(name)
        rows.append(model.generate(tokens[i : i + 1], **options)[0])
    return torch.equal(mixed, torch.stack(rows))


def weighted_sum(tuner: Tuner, model: PeftModel) -> bool:
    kind = "cat" if tuner.name == "LoRA" else "linear"
    model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "sum", combination_type=kind)
    for layer in model.modules():
        if hasattr(layer, "get_delta_weight"):
            first, second, total = (layer.get_delta_weight(name) for name in ("default", "other", "sum"))
            if not close(total, 0.5 * first - 2.0 * second):
                return False
    return has_effect(model, LLAMA.inputs["input_ids"])


def weighted(tuner: Tuner) -> bool:
    return weighted_sum(tuner, tuner.llama())


def weighted_of_different_ranks(tuner: Tuner) -> bool:
    model = tuner.adapt(LLAMA.base(), LLAMA.targets)
    model.add_adapter("other", tuner.config(target_modules=LLAMA.targets, r=3))
    return weighted_sum(tuner, model)


def target_parameters(tuner: Tuner) -> bool:
    base = nn.Sequential(nn.Identity(), nn.Linear(4, 5))
    return has_effect(tuner.adapt(base, None, target_parameters=["1.weight"]), torch.randn(2, 4))


def hot_swapping(tuner: Tuner) -> bool:
    model = tuner.adapt(LLAMA.base(), LLAMA.targets)
    other = tuner.adapt(LLAMA.base(), LLAMA.targets, rank_pattern={"q_proj": 2})
    with tempfile.TemporaryDirectory() as folder:
        other.save_pretrained(folder)
        hotswap_adapter(model, folder, "default", torch_device="cpu")
    return close(LLAMA.logits(model), LLAMA.logits(other))


def mixed_model(tuner: Tuner) -> bool:
    torch.manual_seed(1)
    model = get_peft_model(LLAMA.base(), tuner.config(target_modules=LLAMA.targets), mixed=True).eval()
    return not close(LLAMA.logits(model), LLAMA.logits(LLAMA.base()))


def modules_to_save(tuner: Tuner) -> bool:
    model = tuner.adapt(LLAMA.base(), LLAMA.targets, modules_to_save=["lm_head"])
    nn.init.ones_(model.get_base_model().lm_head.modules_to_save["default"].weight)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return torch.equal(LLAMA.logits(PeftModel.from_pretrained(LLAMA.base(), folder)), LLAMA.logits(model))


def weight_tying(tuner: Tuner) -> bool:
    base = Case("gpt2", "sharing").base()
    model = tuner.adapt(base, ["c_fc"], modules_to_save=["lm_head"], ensure_weight_tying=True)
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def mamba(tuner: Tuner, target: str) -> bool:
    sizes = {"vocab_size": 48, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    model = tuner.adapt(MambaForCausalLM(MambaConfig(**sizes)), [target])
    return has_effect(model, LLAMA.inputs["input_ids"])


def mamba_output(tuner: Tuner) -> bool:
    return mamba(tuner, "out_proj")


def mamba_step_size(tuner: Tuner) -> bool:
    return mamba(tuner, "dt_proj")


def attention(tuner: Tuner, target: str) -> bool:
    base = nn.Sequential(nn.Identity())
    base.attention = nn.MultiheadAttention(8, 2, batch_first=True)
    base.forward = lambda x: base.attention(x, x, x)
    return has_effect(tuner.adapt(base, [target]), torch.randn(2, 3, 8))


def attention_output(tuner: Tuner) -> bool:
    return attention(tuner, "out_proj")


def whole_attention(tuner: Tuner) -> bool:
    return attention(tuner, "attention")


def dropout_under_checkpointing(tuner: Tuner) -> bool:
    gradients = []
    for checkpointing in (False, True):
        model = tuner.adapt(LLAMA.base(), LLAMA.targets, **tuner.dropout(0.5)).train()
        if checkpointing:
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
            model.get_base_model().enable_input_require_grads()
        torch.manual_seed(0)
        gradients.append(torch.cat([g.flatten() for g in LLAMA.gradients(model).values()]))
    return close(*gradients) and bool(gradients[0].any())


def embedding(tuner: Tuner) -> bool:
    return has_effect(tuner.adapt(nn.Sequential(nn.Embedding(9, 4)), ["0"]), torch.arange(9))


def convolution(tuner: Tuner) -> bool:
    return has_effect(tuner.adapt(nn.Sequential(nn.Conv2d(3, 4, 3)), ["0"]), torch.randn(2, 3, 5, 5))


def conv1d_of_transformers(tuner: Tuner) -> bool:
    return has_effect(tuner.adapt(nn.Sequential(Conv1D(5, 4)), ["0"]), torch.randn(2, 4))


def fsdp1(tuner: Tuner, use_orig_params: bool) -> bool:
    model = tuner.adapt(LLAMA.base(), LLAMA.targets)
    expected = LLAMA.logits(model)
    with one_rank():
        policy = fsdp_auto_wrap_policy(model)
        options = {"use_orig_params": use_orig_params, "device_id": torch.device("cpu")}
        return close(LLAMA.logits(FullyShardedDataParallel(model, auto_wrap_policy=policy, **options)), expected)


def fsdp1_with_original_parameters(tuner: Tuner) -> bool:
    return fsdp1(tuner, use_orig_params=True)


def fsdp1_with_flat_parameters(tuner: Tuner) -> bool:
    return fsdp1(tuner, use_orig_params=False)


def linear_layer(tuner: Tuner) -> tuple[PeftModel, torch.Tensor]:
    """An adapted layer, and an input with more rows than M has."""
    return tuner.adapt(nn.Sequential(nn.Linear(8, 6)), ["0"]), torch.randn(16, 8)


def second_derivatives_by_autograd(tuner: Tuner) -> bool:
    model, x = linear_layer(tuner)
    return bool(torch.autograd.functional.hessian(lambda x: model(x).square().sum(), x).any())


def second_derivatives_by_func(tuner: Tuner) -> bool:
    model, x = linear_layer(tuner)
    return bool(torch.func.hessian(lambda x: model(x).square().sum())(x).any())


def batched_gradients(tuner: Tuner) -> bool:
    model, x = linear_layer(tuner)
    return bool(torch.autograd.functional.jacobian(model, x, vectorize=True).any())


def jit_trace(tuner: Tuner) -> bool:
    model, x = linear_layer(tuner)
    torch.jit.trace(model, (x,)).save_to_buffer()
    return True


Feature = Callable[[Tuner], bool]
ROWS: dict[str, tuple[Feature, str]] = {
    "`rank_pattern`": (rank_pattern, "all layers of an adapter have the same operator"),
    '`adapter_names=["a", "__base__"]`: an adapter for each row': (mixed_batch, ""),
    "`generate` with `adapter_names`, with beams": (mixed_generation, ""),
    "`add_weighted_adapter`, adapters of one size": (
        weighted,
        "LoRA: `cat` adds the ranks; MoRA: exact, the same size",
    ),
    "`add_weighted_adapter`, other sizes": (weighted_of_different_ranks, "the sum is no MoRA adapter"),
    "`target_parameters`: fused experts": (target_parameters, "an M for each expert; merged and saved as a layer is"),
    "hot swapping": (hot_swapping, "PEFT knows only LoRA there; `load_adapter` and `set_adapter` work"),
    "`PeftMixedModel`: adapters of several methods at once": (
        mixed_model,
        "PEFT lists the methods that it allows there",
    ),
    "`modules_to_save`": (modules_to_save, ""),
    "`ensure_weight_tying`": (weight_tying, "PEFT warns if `modules_to_save` names one of two tied modules"),
    "`out_proj` of Mamba": (mamba_output, "Mamba reads the weight and does not call the layer"),
    "`dt_proj` of Mamba": (mamba_step_size, "as `out_proj`"),
    "`out_proj` of `nn.MultiheadAttention`": (attention_output, "the attention does not call the layer either"),
    "a whole `nn.MultiheadAttention`": (whole_attention, ""),
    "dropout with activation checkpointing": (dropout_under_checkpointing, "both passes drop the same features"),
    "FSDP1 with `use_orig_params=True`": (fsdp1_with_original_parameters, ""),
    "FSDP1 with `use_orig_params=False`": (
        fsdp1_with_flat_parameters,
        "FSDP1 would flatten M and the frozen weight, which are in one module, into one tensor",
    ),
    "`Conv1D` of transformers": (conv1d_of_transformers, ""),
    "embeddings": (embedding, "the input is no vector that the operators could compress"),
    "convolutions": (convolution, "one matrix for each position of the kernel"),
    "second derivatives by `torch.func`": (second_derivatives_by_func, ""),
    "second derivatives by `torch.autograd`, `create_graph=True`": (
        second_derivatives_by_autograd,
        "the backward pass of MoRA has no derivative",
    ),
    "`torch.autograd.functional.jacobian(vectorize=True)`": (batched_gradients, "`torch.func.jacrev` works"),
    "`torch.jit.trace`": (jit_trace, ""),
}


def outcome(feature: Feature, tuner: Tuner) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "yes" if feature(tuner) else "ignored"
        except (ValueError, TypeError, RuntimeError):
            return "no"


def table() -> str:
    lines = ["| feature | PEFT's LoRA | MoRA | remark |", "|---|---|---|---|"]
    for name, (feature, remark) in ROWS.items():
        lora, mora = (outcome(feature, Tuner(tuner)) for tuner in ("LoRA", "MoRA"))
        lines.append(f"| {name} | {lora} | {mora} | {remark} |")
    return "\n".join(lines) + "\n"


def parts(page: str) -> tuple[str, str, str]:
    """The page before the table, the table, and the page after the table."""
    before, _, rest = page.partition(START)
    shown, _, after = rest.partition(END)
    return before + START, shown, END + after


if __name__ == "__main__":
    before, _, after = parts(PAGE.read_text())
    PAGE.write_text(before + table() + after)
