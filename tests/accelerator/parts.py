"""The parts of the path that a run takes on an accelerator, and a fault for each of them.

A part is a function of a device that returns numbers. A fault is the name of a function: planted, the function leaves
its tensors on the CPU, as code does that forgets the device of its inputs. On the CPU such a fault changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.utils._pytree import tree_map

from experiments.data.rows import Rows
from experiments.measure import update_spectrum
from experiments.measure.continuations import generated
from experiments.measure.evaluation import Loss
from mora import checkpoint, conversion, restart
from mora.fused import linear

from ..mora.tuner.conftest import Case
from ..mora.tuner.test_experts import base as mixture
from ..mora.tuner.test_experts import config as config_of_mixture
from ..process_groups import one_rank

# What torch says in a forward pass, in an in-place product, and in a backward pass.
MIXED = "on the same device|Bad in-place call: .*(acc:0.*cpu|cpu.*acc:0)|expected device acc:0 but got cpu"

SHARING, ROTATION = Case("llama", "sharing"), Case("llama", "rotation")


class Part(NamedTuple):
    """What to run on a device, and the name of the function that a fault makes forget the device."""

    run: Callable[[torch.device, Path], Any]
    fault: str


def plant(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the function with this name return its tensors on the CPU."""

    def to_cpu(value: Any) -> Any:
        return value.cpu() if isinstance(value, Tensor) else value

    module, _, name = fault.rpartition(".")
    owner = _resolve(module)
    original = getattr(owner, name)

    @functools.wraps(original)
    def planted(*args: Any, **kwargs: Any) -> Any:
        return tree_map(to_cpu, original(*args, **kwargs))

    monkeypatch.setattr(owner, name, planted)


def _resolve(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        outer, _, own = name.rpartition(".")
        return getattr(_resolve(outer), own)


def inputs(case: Case, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in case.inputs.items()}


def gradients(model: PeftModel, case: Case, device: torch.device) -> dict[str, Tensor]:
    """The loss and the gradients of a training step."""
    model.zero_grad()
    loss = model(**inputs(case, device), use_cache=False).loss
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def logits(model: PeftModel, case: Case, device: torch.device) -> Tensor:
    tokens = inputs(case, device)["input_ids"]
    return model(input_ids=tokens, use_cache=False).logits


def operator(name: str, device: torch.device, folder: Path) -> Any:
    """Training, one token at a time, merging and unmerging; and the frozen layer computed together with the update."""
    case = Case("llama", name)
    model = case.adapted().to(device).train()
    numbers: list[Any] = [gradients(model, case, device)]
    model.eval()
    numbers.append(logits(model, case, device)[:, -1])
    with torch.no_grad():
        numbers.append(model(input_ids=inputs(case, device)["input_ids"][:1, :1], use_cache=False).logits)
        model.merge_adapter(safe_merge=True)
        numbers.append(logits(model, case, device))
        model.unmerge_adapter()
        numbers.append(logits(model, case, device))
    layer = next(iter(case.layers(model).values()))
    x = torch.linspace(-1, 1, 40 * layer.in_features).view(40, -1).to(device).requires_grad_()
    base: Any = layer.get_base_layer()
    linear(x, base.weight, base.bias, layer.mora_M["default"], layer.mora_operator["default"]).sum().backward()
    return [*numbers, x.grad]


def adapters(device: torch.device, folder: Path) -> Any:
    """Two active adapters, their weighted sum, and a batch whose rows have different adapters."""
    model = SHARING.adapted().to(device)
    torch.manual_seed(2)
    model.add_adapter("second", SHARING.config())
    model.base_model.set_adapter(["default", "second"])
    both = gradients(model, SHARING, device)
    model.base_model.add_weighted_adapter(["default", "second"], [0.5, 2.0], "sum")
    model.set_adapter("sum")
    own = inputs(SHARING, device)["input_ids"]
    with torch.no_grad():
        mixed = model(input_ids=own, adapter_names=["second", "__base__"], use_cache=False).logits
    return both, logits(model, SHARING, device), mixed


def dropout(device: torch.device, folder: Path) -> Any:
    model = SHARING.adapted(mora_dropout=0.5).to(device).train()
    torch.manual_seed(0)
    return gradients(model, SHARING, device)


def autocast(device: torch.device, folder: Path) -> Any:
    model = ROTATION.adapted().to(device).train()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        numbers = gradients(model, ROTATION, device)
        assert model(**inputs(ROTATION, device), use_cache=False).logits.dtype is torch.bfloat16
    return numbers


def checkpointing(device: torch.device, folder: Path) -> Any:
    """Recomputed blocks draw the dropout masks of the forward pass again, from the generator of the device."""
    model = ROTATION.adapted(mora_dropout=0.5).to(device).train()
    torch.manual_seed(0)
    plain = gradients(model, ROTATION, device)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    recomputed = gradients(model, ROTATION, device)
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value)
    return recomputed


def stepped(model: PeftModel, case: Case, device: torch.device) -> torch.optim.AdamW:
    """An optimizer that has done a step, with clipped gradients."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    gradients(model, case, device)
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return optimizer


def restarting(device: torch.device, folder: Path) -> Any:
    """ReMoRA's restart and ReLoRA's: neither changes the function of the model."""
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    numbers: list[Any] = []
    for build in (SHARING.adapted, lambda: get_peft_model(SHARING.base(), config)):
        torch.manual_seed(0)
        model = build().to(device)
        stepped(model, SHARING, device)
        before = logits(model, SHARING, device)
        updates = restart.restart(model)
        torch.testing.assert_close(logits(model, SHARING, device), before, rtol=1e-3, atol=1e-4)
        assert {t.device.type for update in updates for t in update.tensors.values()} == {"cpu"}
        numbers += [before, *(update.tensors for update in updates)]
    return numbers


def regrouping(device: torch.device, folder: Path) -> Any:
    model = SHARING.adapted().to(device).train()
    numbers = []
    for groups in restart.FOUR_GROUPINGS:
        restart.regroup(model, *groups)
        numbers.append(gradients(model, SHARING, device))
    return numbers


def reset(device: torch.device, folder: Path) -> Any:
    model = SHARING.adapted().to(device)
    numbers: list[Any] = []
    for how in ("magnitude", "random", "zero"):
        optimizer = stepped(model, SHARING, device)
        torch.manual_seed(0)
        restart.reset_optimizer(optimizer, model.parameters(), how)
        numbers.append([state["exp_avg"] for state in optimizer.state.values()])
    return numbers


def saving(device: torch.device, folder: Path) -> Any:
    """A restarted model that is saved on the device and loaded there equals itself."""
    model = SHARING.adapted().to(device)
    updates = restart.restart(model)
    stepped(model, SHARING, device)
    model.save_pretrained(str(folder))
    checkpoint.save_base(model, updates, folder)
    loaded = checkpoint.load_restarted(SHARING.base().to(device), folder)
    assert {p.device.type for p in loaded.parameters()} == {device.type}
    torch.testing.assert_close(logits(loaded, SHARING, device), logits(model.eval(), SHARING, device))
    return logits(loaded, SHARING, device)


def spectrum(device: torch.device, folder: Path) -> Any:
    return update_spectrum.of_run(ROTATION.adapted().to(device), ROTATION.base())


def converting(device: torch.device, folder: Path) -> Any:
    numbers: list[Any] = []
    for case, rank in ((SHARING, None), (ROTATION, 3)):
        lora = conversion.as_lora(case.adapted().to(device), rank=rank)
        assert {t.device.type for t in lora.weights.values()} == {"cpu"}
        products = {
            n: lora.weights[n.replace("lora_A", "lora_B")] @ A for n, A in lora.weights.items() if "lora_A" in n
        }
        numbers += [products, lora.error]
    return numbers


def experts(device: torch.device, folder: Path) -> Any:
    """Adapters on the stacked weights of a mixture of experts."""
    torch.manual_seed(0)
    model = get_peft_model(mixture("mixtral"), config_of_mixture("rotation")).to(device)
    numbers = gradients(model, SHARING, device)
    model.merge_adapter()
    return numbers, logits(model, SHARING, device)


def evaluation(device: torch.device, folder: Path) -> Any:
    """The loss of rows of different lengths, and the continuations of prompts of different lengths."""
    model = ROTATION.adapted().to(device)
    rows = Rows.of([(range(1, n), [False] + [True] * (n - 2)) for n in (5, 9, 7)])
    before = torch.get_rng_state(), model.training
    loss = Loss.of(model, rows)
    assert torch.equal(before[0], torch.get_rng_state()) and model.training is before[1]
    return loss.nats, loss.tokens


def generation(device: torch.device, folder: Path) -> Any:
    with torch.no_grad():
        return generated(ROTATION.adapted().to(device), [[5, 6, 7], [8]], 0, max_new_tokens=4)


def sharded_updates(device: torch.device, folder: Path) -> Any:
    """Each rank adds its part of an update to its rows of a weight, clears its part of a moment, and writes its part.

    There is one rank here, which stands for any: it owns all the rows.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    from mora import sharded

    with one_rank():
        mesh = init_device_mesh(device.type, (1,))

        def split(tensor: Tensor) -> Any:
            return DTensor.from_local(tensor.to(device), mesh, [Shard(0)], run_check=False)

        model = SHARING.adapted()
        (name, layer), *_ = restart.adapted_layers(model)
        weight = split(restart.base_weight(layer).detach().clone())
        restart.pending_update(name, layer, model.peft_config["default"]).add_(weight)
        parameter = torch.nn.Parameter(split(torch.linspace(-1, 1, 30).view(6, 5)))
        optimizer = torch.optim.AdamW([parameter])
        optimizer.state[parameter] = {
            k: split(torch.linspace(0.1, 1, 30).view(6, 5)) for k in ("exp_avg", "exp_avg_sq")
        }
        optimizer.state[parameter]["step"] = torch.tensor(3.0)
        torch.manual_seed(0)
        restart.reset_optimizer(optimizer, [parameter], "random", 0.5)
        written = split(torch.zeros(4, 3))
        sharded.write_(written, torch.linspace(0, 1, 12).view(4, 3))
        moment = optimizer.state[parameter]["exp_avg"]
        return [tensor.to_local() for tensor in (weight, moment, written)]


PARTS = {
    "truncation": Part(functools.partial(operator, "truncation"), "mora.kernels.sum_groups"),
    "sharing": Part(functools.partial(operator, "sharing"), "mora.grouped.Grouping.sum"),
    "decouple": Part(functools.partial(operator, "decouple"), "mora.blocked.Blocked.matrices"),
    "rotation": Part(functools.partial(operator, "rotation"), "mora.blocked.Blocked.tables"),
    "several adapters": Part(adapters, "torch.tensor"),
    "experts": Part(experts, "mora.experts.add_updates_"),
    "dropout": Part(dropout, "torch.nn.functional.dropout"),
    "autocast": Part(autocast, "mora.blocked.turn"),
    "checkpointing": Part(checkpointing, "mora.blocked.Blocked.sum_matrices"),
    "restart": Part(restarting, "mora.sharded.part"),
    "regroup": Part(regrouping, "mora.kernels.sum_groups"),
    "optimizer reset": Part(reset, "torch.rand_like"),
    "checkpoint save and load": Part(saving, "mora.sharded.part"),
    "spectrum": Part(spectrum, "mora.blocked.Blocked.tables"),
    "conversion": Part(converting, "torch.linalg.svd"),
    "evaluation": Part(evaluation, "torch.Tensor.__ge__"),
    "generation": Part(generation, "torch.tensor"),
    "sharded updates": Part(sharded_updates, "mora.sharded._local_part"),
}
