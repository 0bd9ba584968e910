"""The cases of the tuner's tests: every operator on three architectures, as in PEFT's common tester."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import mora

# The base models have no dropout, so that training mode is deterministic. No r_hat of the tests divides these sizes.
ARCHITECTURES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=48,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=48,
            n_positions=32,
            n_embd=24,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=1,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
        )
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=48,
            d_model=24,
            d_kv=12,
            d_ff=40,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    ),
}
TARGETS = {
    "llama": ["q_proj", "v_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "t5": ["q", "v", "wi", "wo"],
}


@dataclass(frozen=True)
class Case:
    """One architecture and one operator."""

    architecture: str
    operator: str

    @property
    def targets(self) -> list[str]:
        return TARGETS[self.architecture]

    def base(self) -> PreTrainedModel:
        """A new model in evaluation mode. Every call returns the same weights, bit by bit."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = ARCHITECTURES[self.architecture]().eval()
            # With the usual standard deviation of 0.02 all logits would be so similar that a wrong adapter could pass.
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    torch.nn.init.normal_(parameter, std=0.15)
        return model

    def config(self, **options: Any) -> mora.MoraConfig:
        """A configuration with the options. By default M is random: an update of zero would hide every error."""
        defaults = {"r": 2, "operator": self.operator, "target_modules": self.targets, "init_weights": False}
        return mora.MoraConfig(**defaults | options)

    def adapted(self, dtype: torch.dtype = torch.float32, **options: Any) -> PeftModel:
        """The base model with one adapter, in evaluation mode. Every call returns the same weights, bit by bit."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return get_peft_model(self.base().to(dtype), self.config(**options)).eval()

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        tokens = torch.arange(2 * 9).reshape(2, 9) * 5 % 48
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens.flip(1)}

    @staticmethod
    def layers(model: torch.nn.Module) -> dict[str, mora.MoraLinear]:
        """The adapted layers by name."""
        return {name: module for name, module in model.named_modules() if isinstance(module, mora.MoraLinear)}

    @torch.no_grad()
    def logits(self, model: torch.nn.Module) -> torch.Tensor:
        return model(**self.inputs).logits

    def gradients(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The gradients of the loss by parameter name, for the parameters with a gradient."""
        model.zero_grad()
        model(**self.inputs).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to rounding: float32 sums in a different order."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(
    params=[Case(a, o) for a, o in itertools.product(ARCHITECTURES, mora.operators.NAMES)],
    ids=lambda case: f"{case.architecture}-{case.operator}",
)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def llama() -> Case:
    """One case, for tests that do not depend on the architecture and the operator."""
    return Case("llama", "sharing")
