"""Ranks: which rank a process is, and which examples of each batch a rank takes."""

import os

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler, prepare_data_loader, skip_first_batches
from torch.utils.data import BatchSampler, DataLoader

from experiments.errors import ConfigError
from experiments.spec import hardware, ranks
from experiments.train.placement import Placement, base_dtype, training_arguments
from experiments.train.sampling import PaddedRows, SingleProcessOrder

from ..conftest import compose
from ..train.on_ranks import TWO, assert_same_run, environment, run, settings


@pytest.fixture
def environ(monkeypatch):
    """Set environment variables, after the variables of any launcher are removed."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(name, str(value)) for name, value in values.items()]


def test_a_process_started_alone_is_rank_0_of_1(environ):
    assert ranks.from_launcher() is None
    assert ranks.current() == ranks.Rank(0, 1, 0, 1)
    assert ranks.broadcast("mine") == "mine"
    assert ranks.divided([3, 1, 2], lambda x: x * x) == [9, 1, 4]


def test_the_rank_is_that_of_torchrun_or_srun(environ):
    environ(SLURM_PROCID=0, SLURM_NTASKS=4, SLURM_JOB_ID=7)
    assert ranks.from_launcher() is None  # a batch script is not a step
    environ(SLURM_PROCID=3, SLURM_STEP_ID=0, SLURM_STEP_NUM_NODES=2, SLURM_LOCALID=1)
    assert ranks.from_launcher() == ranks.Rank(3, 4, 1, 2)
    environ(SLURM_STEP_NUM_TASKS=1)
    assert ranks.from_launcher() is None  # one process of srun may start a rank for each GPU itself
    environ(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4)
    assert ranks.from_launcher() == ranks.Rank(5, 8, 1, 4)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a1", "a1"), ("a1,b2", "a1"), ("gpu[03-05,9]", "gpu03"), ("n[7,9],m1", "n7"), ("", "localhost")],
)
def test_the_first_host_in_a_list_of_slurm(nodes, host, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    assert ranks.slurm_first_host() == host


@pytest.mark.parametrize("rows", [13, 16, 3])
@pytest.mark.parametrize(("count", "micro"), [(2, 1), (2, 2), (4, 1), (3, 2)])
def test_the_ranks_together_take_what_one_process_takes(rows, count, micro):
    data, epochs = [{"row": i} for i in range(rows)], 2
    padded = PaddedRows(data, micro * count)
    shuffled = SeedableRandomSampler(data, data_seed=3, generator=torch.Generator())
    for epoch in range(epochs):
        shuffled.set_epoch(epoch)
        single = list(BatchSampler(shuffled, count * micro, drop_last=False))
        shares = []
        for rank in range(count):
            order = SingleProcessOrder(padded, 3)
            order.set_epoch(epoch)
            shares.append(list(BatchSamplerShard(BatchSampler(order, micro, False), count, rank)))
        assert {len(share) for share in shares} == {len(single)}
        for step, expected in enumerate(single):
            taken = [i for share in shares for i in share[step]]
            assert sorted(i for i in taken if i < rows) == sorted(expected)
            assert all((padded[i]["labels"] == -100).all() for i in taken if i >= rows)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_epoch_that_is_continued_in_the_middle_is_the_rest_of_that_epoch(rank):
    """The test does what a resumed run does: it skips the first batches of a new loader, and then calls set_epoch."""

    def new_loader():
        rows = PaddedRows([{"row": i} for i in range(13)], 2)
        order = SingleProcessOrder(rows, 3)
        loader = DataLoader(rows, batch_size=1, sampler=order, collate_fn=lambda rows: rows[0].get("row"))
        return prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False, rng_types=[])

    def rows_of(loader, epoch):
        loader.set_epoch(epoch)
        return list(loader)

    whole = new_loader()
    epochs = [rows_of(whole, epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1]
    assert rows_of(skip_first_batches(new_loader(), 3), 1) == epochs[1][3:]


def test_gradients_accumulate_to_the_global_batch(environ):
    four = ("hardware.processes=4", "hardware.device_batch_size=2", "training.batch_size=16")
    config = compose("hardware=ddp", "hardware.device=cpu", *four)
    arguments = training_arguments(config, Placement("cpu", "fp32"), [])
    assert config.training.batch_size == 16
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * 4 == 16
    assert arguments["average_tokens_across_devices"]
    assert "fsdp" not in arguments
    assert "deepspeed" not in arguments


def test_fsdp_is_an_argument_of_the_trainer(environ):
    config = compose("hardware=fsdp", "hardware.device=cpu", "hardware.activation_checkpointing=true")
    arguments = training_arguments(config, Placement("cpu", "fp32"), ["LlamaDecoderLayer"])
    assert arguments["fsdp"] is True
    assert arguments["activation_checkpointing"]
    options = {"version": 2, "reshard_after_forward": True}
    assert options.items() <= arguments["fsdp_config"].items()
    assert "activation_checkpointing" not in arguments["fsdp_config"]
    assert arguments["fsdp_config"]["transformer_layer_cls_to_wrap"] == ["LlamaDecoderLayer"]


@pytest.fixture
def two_gpus(monkeypatch, environ):
    monkeypatch.setattr(hardware, "_has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "_has_bf16", lambda: True)
    monkeypatch.setattr(hardware, "_gpus", lambda: 2)
    monkeypatch.setattr(hardware, "_has_deepspeed", lambda: True)


def test_deepspeed_is_an_argument_of_the_trainer(two_gpus):
    config = compose("hardware=deepspeed", "scale=paper")
    assert (config.hardware.processes, config.hardware.device, config.hardware.precision) == (2, "gpu", "bf16")
    arguments = training_arguments(config, Placement("cuda", "bf16"), [])
    assert arguments["deepspeed"]["zero_optimization"]["stage"] == 2
    assert arguments["bf16"]
    batch = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * 2
    assert batch == config.training.batch_size


def test_there_is_one_process_for_each_gpu_and_no_more(two_gpus):
    assert compose("hardware=ddp").hardware.processes == 2
    assert compose("hardware=gpu").hardware.processes == 1
    with pytest.raises(ConfigError, match=r"hardware\.processes is 3, .* fewer GPUs; allowed: 1 to 2"):
        compose("hardware=ddp", "hardware.processes=3")


def test_a_rank_that_sees_one_gpu_alone_says_how_srun_is_started(two_gpus, environ, monkeypatch):
    monkeypatch.setattr(hardware, "_gpus", lambda: 1)
    environ(SLURM_PROCID=0, SLURM_NTASKS=8, SLURM_STEP_ID=0)
    with pytest.raises(ConfigError, match=r"allowed: 1 to 1; srun must show .*: --gpus-per-node in place of --gpus-pe"):
        compose("hardware=ddp")


def test_restarts_refuse_a_format_that_skips_steps(two_gpus):
    """The schedule of the learning rate waits for a skipped step, and the restart does not."""
    with pytest.raises(
        ConfigError, match=r"hardware\.precision must not be fp16 for method=remora: .*allowed: fp32, bf16"
    ):
        compose("hardware=gpu", "hardware.precision=fp16", "method=remora")
    compose("hardware=gpu", "hardware.precision=fp16", "method=mora")


@pytest.mark.parametrize(
    ("method", "dtype"), [("mora", torch.bfloat16), ("remora", torch.float32), ("fft", torch.float32)]
)
def test_weights_that_change_are_float32(method, dtype, environ):
    """A merge into bf16 loses the part of an update that is smaller than the gap between two numbers."""
    config = compose(f"method={method}", "hardware=cpu", "hardware.precision=bf16")
    assert base_dtype(config, Placement.of(config.hardware)) is dtype


def test_deepspeed_is_refused_where_it_cannot_run(two_gpus, monkeypatch):
    with pytest.raises(ConfigError, match=r"must not be zero2 for method=remora: .*float32 copies"):
        compose("hardware=deepspeed", "method=remora")
    monkeypatch.setattr(hardware, "_has_deepspeed", lambda: False)
    with pytest.raises(ConfigError, match=r"needs the package deepspeed, .*pip install deepspeed"):
        compose("hardware=deepspeed")


def test_the_launcher_decides_how_many_ranks_there_are(environ):
    environ(RANK=0, WORLD_SIZE=4, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2)
    hardware = compose("hardware=ddp").hardware
    assert (hardware.processes, hardware.nodes, hardware.ranks) == (2, 2, 4)
    with pytest.raises(ConfigError, match=r"hardware\.processes is 1, but .* 4 ranks, 2 on each node; allowed: 2"):
        compose("hardware=cpu")


def test_a_checkpoint_of_another_sharding_is_refused(environ, tmp_path):
    from experiments.train import sharding

    config = compose("hardware=fsdp", "hardware.device=cpu")
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"hardware\.sharding is full, but .* allowed: none"):
        sharding.check([folder], config)
    (folder / sharding.SHARDED_FOLDER).mkdir()
    sharding.check([folder], config)
    unsharded = config.replace(hardware=config.hardware.replace(sharding="none"))
    with pytest.raises(ConfigError, match="allowed: full or gradients"):
        sharding.check([folder], unsharded)


def test_two_processes_give_the_result_of_one(tmp_path):
    """run.py starts two ranks over gloo. The ranks leave one record, with the curve and the weights of one process."""
    from experiments import runner

    runner.run(compose(*settings("mora", f"paths.results={tmp_path / 'one'}", "hardware=cpu")))
    code, err = run(settings("mora", *TWO, "hardware=ddp", f"paths.results={tmp_path / 'two'}"))
    assert code == 0, err
    assert err.count("12/12") >= 1
    assert_same_run(tmp_path / "two", tmp_path / "one")
