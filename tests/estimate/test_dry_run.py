"""The numbers of a dry run, beside formulas, published counts and the memory of real steps."""

import dataclasses
import functools
import math
import os
import sys

import pytest
import torch

from experiments.errors import ConfigError
from experiments.estimate import dry_run, needs, rough, trace
from experiments.identity import identity_of, key_of
from experiments.spec import shapes
from experiments.train import adapt
from experiments.train.base_models import tiny_model
from experiments.train.placement import Placement

from ..conftest import ROOT, compose
from ..processes import launch

CPU, GPU = Placement("cpu", "fp32"), Placement("cuda", "bf16")
SEVEN_B = "meta-llama/Llama-2-7b-hf"


def plan(*arguments: str):
    return compose("dry_run=true", "task=math", "scale=paper", *arguments)


def step_of(config, placement, rows: int, length: int) -> trace.Step:
    return trace.step(trace.adapted(config, placement).model, placement, rows, length)


def trainable(network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("model", "total"),
    [
        (SEVEN_B, 6_738_415_616),
        ("meta-llama/Llama-2-13b-hf", 13_015_864_320),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("smollm2-135m", 134_515_008),
        ("tiny", sum(p.numel() for p in tiny_model().parameters())),
    ],
)
def test_the_shapes_have_the_parameters_of_the_models(model, total):
    network = trace.adapted(plan("method=fft", f"model={model}"), GPU).model
    assert sum(p.numel() for p in network.parameters()) == total
    assert all(p.is_meta for p in network.parameters())


def test_lora_on_all_projections_of_llama_2_7b_has_the_known_count():
    assert trainable(trace.adapted(plan("method=lora", "method.rank=8"), GPU).model) == 19_988_480


@pytest.mark.parametrize("rank", [8, 256])
def test_mora_has_the_largest_squares_within_loras_count(rank):
    shape = shapes.NAMED[SEVEN_B]
    config = plan("method=mora", f"method.rank={rank}", "method.operator=sharing")
    squares = shape.layers * sum(math.isqrt((k + d) * rank) ** 2 for k, d in shape.linears().values())
    assert trainable(trace.adapted(config, GPU).model) == squares


def saved_bytes(model, rows: int, length: int) -> int:
    """Bytes that autograd saves for the backward pass in a real forward pass."""
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def pack(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights:
            saved[memory.data_ptr()] = memory.nbytes()
        return tensor

    ids = torch.randint(3, 200, (rows, length))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    assert loss.requires_grad
    return sum(saved.values())


@pytest.mark.parametrize(
    "arguments",
    [
        ("method=fft",),
        ("method=lora",),
        ("method=mora", "method.operator=sharing"),
        ("method=mora", "method.operator=rotation"),
        ("method=dora",),
    ],
    ids=" ".join,
)
def test_what_is_kept_for_the_backward_pass_is_what_real_steps_keep(arguments):
    config = plan("model=tiny", *arguments)
    step = step_of(config, CPU, rows=4, length=128).plain
    real = saved_bytes(adapt.adapt(tiny_model(), config).model.train(), 4, 128)
    assert step.saved == pytest.approx(real, rel=0.1)
    assert step.peak > step.saved


def test_sharing_keeps_less_than_lora_and_checkpointing_less_than_all():
    shape, saved = shapes.NAMED[SEVEN_B], {}
    for name, extra in (("lora", ()), ("mora", ("method.operator=sharing",))):
        step = step_of(plan(f"method={name}", "method.dropout=0", *extra), GPU, 8, 512)
        saved[name] = step.plain.saved
        assert step.checkpointed.peak < step.plain.peak / 4
        recomputed = step.checkpointed.backward - step.plain.backward
        assert 0.9 * step.plain.forward < recomputed < step.plain.forward
    inputs = sum(k for k, _ in shape.linears().values()) * shape.layers * 8 * 512 * 2
    # The difference is less than all inputs: autograd keeps some inputs for other reasons, with MoRA too.
    assert 0.2 * inputs < saved["lora"] - saved["mora"] < inputs


def test_flops_are_those_of_the_products():
    """Full fine-tuning, without embedding and attention: for each parameter and token two forwards, four backwards."""
    shape, rows, length = shapes.NAMED["smollm2-135m"], 2, 64
    step = step_of(plan("method=fft", "model=smollm2-135m"), CPU, rows, length).plain
    products = shape.layers * sum(k * d for k, d in shape.linears().values()) + shape.hidden * shape.vocabulary
    attention = shape.layers * 2 * 2 * rows * length**2 * shape.hidden
    assert step.forward == 2 * products * rows * length + attention
    # The input of the first layer needs no gradient: only the embedding that computes it does.
    assert step.backward == pytest.approx(2 * step.forward, rel=0.05)


def test_the_saved_adapter_has_the_size_that_was_said(trained):
    _, records = trained
    for name in ("mora", "lora"):
        record = records[name]
        arguments = ["scale=smoke", "hardware=cpu", "dry_run=true", f"method={name}"]
        arguments += ["method.operator=sharing"] if name == "mora" else []
        estimate = needs.estimate(compose(*arguments))
        assert estimate.trainable == record.cost["trainable_parameters"]
        assert estimate.total == record.cost["total_parameters"]
        assert estimate.adapted == record.provenance["adapted"]
        assert sum(kind["parameters"] for kind in estimate.adapted.values()) == estimate.trainable
        assert estimate.saved <= record.cost["adapter_bytes"] < estimate.saved + 10_000
        # The estimate is for the longest row that any tokenizer gives.
        assert record.cost["tokens"] <= estimate.tokens < 1.02 * record.cost["tokens"]


def test_parts_that_are_sharded_are_divided_and_the_batch_is_too():
    own = ("model=tiny", "method=fft", "hardware=cpu", "training.batch_size=64", "hardware.device_batch_size=8")
    sharded = [["hardware.processes=4", f"hardware.sharding={kind}"] for kind in ("full", "gradients")]
    one, four, partly = (needs.estimate(plan(*own, *more)) for more in ([], *sharded))
    assert four.weights == one.weights / 4 == partly.weights / 4
    assert four.optimizer == one.optimizer / 4 == partly.optimizer
    assert four.gradients == one.gradients / 4
    assert one.gradients == one.optimizer / 2
    assert four.activations == one.activations  # as many rows at a time
    assert four.flops == one.flops


@pytest.mark.parametrize(("kind", "bits"), [("nf4", 4.5), ("int8", 8.0)])
def test_quantized_weights_are_smaller(kind, bits):
    shape = shapes.NAMED["tiny"]
    plain, small = (
        needs.estimate(plan("model=tiny", "method=lora", f"quantization={q}")).weights for q in ("none", kind)
    )
    projections = shape.layers * sum(k * d for k, d in shape.linears().values())
    scales = 4 * shape.layers * sum(d for _, d in shape.linears().values()) if kind == "int8" else 0
    assert plain - small == pytest.approx(projections * (2 - bits / 8) - scales)


def test_hours_are_flops_over_the_assumed_speed():
    estimate = needs.estimate(plan("model=tiny", "method=lora"))
    rows = {row[0]: row for row in dry_run.hours(estimate, 0, "bf16", 2)}
    assert "T4" not in rows  # has no bf16
    assert float(rows["H100 SXM"][3]) == pytest.approx(estimate.flops[0] / (989e12 * 0.4 * 2) / 3600, rel=0.01)
    assert rows["H100 SXM"][4] == "yes"


def test_hours_are_those_with_checkpointing_where_the_run_fits_in_no_other_way():
    known = needs.estimate(plan("method=lora", "model=tiny"))
    large = dataclasses.replace(known, peak=(90 * dry_run.GIB, dry_run.GIB))
    assert large.flops[1] > 1.1 * large.flops[0]
    for card, _, speed, duration, fits in dry_run.hours(large, 0, "bf16", 1):
        flops = large.flops[fits == "with checkpointing"]
        assert float(duration) == pytest.approx(flops / (float(speed) * 1e12 * 0.4) / 3600, rel=0.01), card


@pytest.mark.parametrize("method", ["mora", "remora", "relora", "dora"])
def test_the_lora_beside_a_method_is_the_lora_of_the_same_protocol(method):
    """With its dropout, without restarts: both change the memory."""
    arguments = ("model=tiny", "hardware=gpu", "method.rank=8")
    beside = needs.lora_of(plan(*arguments, f"method={method}").method)
    of_protocol = plan(*arguments, "method=lora")
    assert needs.estimate(of_protocol.replace(method=beside)) == needs.estimate(of_protocol)


PAPERS = [f"task={task}" for task in ("instruct", "math", "biomed", "finance", "uuid", "pretrain")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "mora"])
@pytest.mark.parametrize("task", [*PAPERS, "task=pretrain model=llama-1.3b"])
def test_a_run_of_the_paper_fits_a_gpu_of_80_gb(task, method):
    rank = compose("scale=paper", "hardware=gpu", "dry_run=true", *task.split()).protocol["ranks"].values()
    arguments = ("scale=paper", "hardware=gpu", "dry_run=true", f"method={method}", f"method.rank={max(rank)}")
    rows = {row[0]: row for row in dry_run.hours(needs.estimate(compose(*arguments, *task.split())), 0, "bf16", 1)}
    assert rows["A100 80 GB"][-1] == "yes"


def test_a_rough_estimate_counts_the_gradients_of_the_weights_that_train():
    whole, some, lora = (
        rough.flops(plan(*arguments))
        for arguments in (["method=fft"], ["method=fft", "method.target_modules=[q_proj,down_proj]"], ["method=lora"])
    )
    assert whole == some == 1.5 * lora


def test_a_dry_run_has_the_key_of_the_run():
    planned, run = (compose("scale=smoke", "hardware=cpu", *a) for a in (("dry_run=true",), ()))
    assert key_of(identity_of(planned)) == key_of(identity_of(run))
    assert "dry_run" not in run.for_record()


def test_what_cannot_be_estimated_is_one_line():
    with pytest.raises(ConfigError, match="method=none trains nothing"):
        needs.estimate(plan("method=none"))
    with pytest.raises(ConfigError, match=r"model owner/name cannot be loaded: "):
        needs.estimate(plan("model=owner/name"))


def test_adapters_in_some_blocks_only_are_said_to_be_no_estimate():
    arguments = ("method=lora", "+method.peft.layers_to_transform=[0]", "dry_run=true")
    text = dry_run.table(compose("scale=smoke", "hardware=cpu", *arguments))
    assert "peak memory and FLOPs are not known: adapters are in some blocks only" in text


def test_the_lora_beside_a_method_has_no_budget_to_spend():
    """Its note would say the setting of the budget twice, with two values."""
    text = dry_run.table(compose("scale=smoke", "hardware=cpu", "method=hira", "dry_run=true", "method.rank=8"))
    assert text.count("note: method.peft.r is ") == 1


def test_what_a_run_takes_from_another_rank_is_said():
    text = dry_run.table(compose("hardware=cpu", "task=uuid", "method=lora", "dry_run=true", "method.rank=16"))
    assert "note: the learning rate 0.001 is that of rank 32" in text
    assert "note: alpha is 2 x rank" in text
    assert "note: " not in dry_run.table(compose("hardware=cpu", "task=uuid", "method=lora", "dry_run=true"))


def test_a_method_that_computes_with_the_weights_at_its_start_is_one_line(monkeypatch):
    def read(*_, **__):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")

    monkeypatch.setattr("experiments.train.adapt.wrapped", read)
    with pytest.raises(ConfigError, match="dry_run: method=lora starts with values that it computes from the weights"):
        needs.estimate(plan("method=lora"))


def test_the_command_prints_a_table_and_leaves_nothing(tmp_path):
    here, log = tmp_path / "here", tmp_path / "log"
    here.mkdir()
    arguments = ["scale=paper", "task=math", "method=mora", "dry_run=true"]
    done = launch(*arguments, log=log, before=functools.partial(os.chdir, here))
    assert done.code == 0, done.err
    assert done.err == ""
    lines = {line.split("  ")[0].strip(): line.split() for line in done.out.splitlines()}
    assert lines["trainable parameters"][-1] == "19,988,480"
    assert lines["A100 80 GB"][-1] == "yes"
    assert "GPU" in done.out or "(gpu) in bf16" in done.out
    assert os.listdir(here) == []


def test_every_rank_loads_the_whole_model_and_ddp_holds_gradients_twice():
    """Measured: under DDP the buckets are a second copy of the gradients."""
    common = (
        "method=fft",
        "model=llama-1.3b",
        "task=pretrain",
        "scale=paper",
        "hardware.activation_checkpointing=true",
    )
    one = needs.estimate(plan(*common, "hardware=gpu", "hardware.device_batch_size=1"))
    ddp = needs.estimate(plan(*common, "hardware=ddp", "hardware.processes=8", "hardware.device_batch_size=1"))
    assert ddp.peak[1] == pytest.approx(one.peak[1] + one.gradients, rel=0.02)
    many = ("hardware=fsdp", "hardware.processes=64", "hardware.device_batch_size=1")
    fsdp = needs.estimate(plan(*common, *many))
    assert fsdp.weights < one.weights / 60
    assert fsdp.peak[1] >= one.weights


@pytest.mark.slow
def test_real_steps_peak_where_the_estimate_says():
    sys.path.insert(0, str(ROOT))
    from scripts.check_dry_run import METHODS, comparison

    for name in METHODS:
        for checkpointing in (False, True):
            numbers = comparison("tiny", name, checkpointing)
            assert numbers["peak"] == pytest.approx(numbers["peak_measured"], rel=0.2), (name, checkpointing)


@pytest.mark.slow
def test_processes_share_the_batch_and_what_is_sharded():
    """On GPUs that this machine does not have."""
    own = ["task=math", "scale=paper", "dry_run=true", "hardware.device_batch_size=1"]

    def memory(*arguments: str) -> dict[str, float]:
        page = dry_run.table(compose(*own, *arguments))
        lines = {line[:20].strip(): line for line in page.splitlines() if "GiB" in line}
        return {name: float(lines[name].split()[-4]) for name in ("weights", "optimizer (AdamW)")}

    alone, eight = memory("hardware=gpu"), memory("hardware=ddp", "hardware.processes=4", "hardware.nodes=2")
    assert eight == alone
    full = memory("hardware=fsdp", "hardware.processes=4", "hardware.nodes=2")
    assert full["weights"] == pytest.approx(alone["weights"] / 8, abs=0.01)
    zero = memory("hardware=deepspeed", "hardware.processes=8")
    assert zero["weights"] == alone["weights"]
    assert zero["optimizer (AdamW)"] == pytest.approx(alone["optimizer (AdamW)"] / 8, abs=0.01)
