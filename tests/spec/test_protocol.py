"""The values that a protocol looks up by rank: ranks that stand for the paper's ranks have the paper's values."""

from __future__ import annotations

import pytest

from experiments import tasks
from experiments.errors import ConfigError
from experiments.spec import protocol, scales

from ..conftest import compose

# Table 5 and section 3: MoRA's operator and LoRA's alpha at each rank of the paper.
OPERATORS = {
    "uuid": {8: "sharing", 256: "sharing"},
    "pretrain": {128: "sharing"},
    **{task: {8: "rotation", 256: "sharing"} for task in ("instruct", "math", "biomed", "finance", "custom")},
}
ALPHA_OVER_RANK = {8: 16 / 8, 128: 64 / 128, 256: 128 / 256}


PAPERS = [name for name in scales.names() if name != "galore"]  # at scale galore, LoRA has GaLore's alpha


@pytest.mark.parametrize("scale", PAPERS)
@pytest.mark.parametrize("task", tasks.names())
def test_operator_and_scale_are_the_papers_at_the_ranks_that_stand_for_the_papers(task, scale):
    ranks = compose(f"task={task}", f"scale={scale}").protocol["ranks"]
    assert ranks.keys() == {f"r{rank}" for rank in OPERATORS[task]}
    for paper_rank, operator in OPERATORS[task].items():
        rank = f"method.rank={ranks[f'r{paper_rank}']}"
        mora = compose("method=mora", f"task={task}", f"scale={scale}", rank).method
        assert (mora.setting("operator"), mora.peft["operator"]) == (operator, operator)
        lora = compose("method=lora", f"task={task}", f"scale={scale}", rank).method
        assert lora.peft["lora_alpha"] / lora.rank == ALPHA_OVER_RANK[paper_rank]
        assert compose("method=remora", f"task={task}", f"scale={scale}", rank).method.peft["operator"] == "sharing"


@pytest.mark.parametrize("task", tasks.names())
def test_the_dropout_of_every_adapter_is_the_default_of_the_authors_code(task):
    for method in ("lora", "relora"):
        assert compose(f"method={method}", f"task={task}", "scale=paper").method.peft["lora_dropout"] == 0.05
    for method in ("mora", "remora"):
        assert compose(f"method={method}", f"task={task}", "scale=paper").method.peft["mora_dropout"] == 0.05


@pytest.mark.parametrize(
    ("task", "tokens_of_a_row", "passes"),
    [
        ("biomed", 711, 3),  # Table 5; 711 tokens were measured on PubMed abstracts in reading-comprehension form
        ("finance", 850, 5),  # not Table 5's 3: the public news are fewer than the paper's
    ],
)
def test_continual_pretraining_goes_so_often_over_its_rows(task, tokens_of_a_row, passes):
    config = compose(f"task={task}", "scale=paper")
    tokens = config.training.steps * config.training.batch_size * config.task.max_length
    assert tokens == 5_000 * 128 * 2_048
    assert tokens / (config.task.train_rows * tokens_of_a_row) == pytest.approx(passes, rel=0.03)


def test_what_the_paper_leaves_open_is_chosen_as_the_page_says():
    """Alpha for UUIDs at r = 8 and at Figure 2's other ranks, and the floor of the jagged schedule."""
    alphas = {8: 16, 16: 32, 32: 64, 64: 128, 128: 256, 256: 128}
    for rank, alpha in alphas.items():
        assert compose("method=lora", "scale=paper", f"method.rank={rank}").method.peft["lora_alpha"] == alpha
    for task in tasks.names():
        floor = compose("method=relora", f"task={task}", "scale=paper").method.restart_floor
        assert floor == (0.1 if task == "pretrain" else 0)


@pytest.mark.parametrize(("scale", "documents"), [("paper", 10_000), ("galore", 20_000)])
def test_pretraining_is_measured_on_so_many_documents(scale, documents):
    assert compose("task=pretrain", f"scale={scale}").task.heldout_rows == documents


@pytest.mark.parametrize("scale", PAPERS)
@pytest.mark.parametrize("task", tasks.names())
def test_at_the_papers_ranks_nothing_is_borrowed(task, scale):
    for rank in compose(f"task={task}", f"scale={scale}").protocol["ranks"].values():
        for method in ("lora", "mora", "remora"):
            config = compose(f"method={method}", f"task={task}", f"scale={scale}", f"method.rank={rank}")
            assert protocol.borrowed(config) == []


def test_what_is_borrowed_from_another_rank_is_said():
    lora = protocol.borrowed(compose("method=lora", "method.rank=12"))
    assert lora[0].startswith("the learning rate 0.001 is that of rank 32: ")
    assert "1, 32, not for 12" in lora[0]
    assert lora[1].startswith("alpha is 2 x rank")
    mora = protocol.borrowed(compose("method=mora", "task=math", "method.rank=16", "training.learning_rate=7e-4"))
    assert mora == ["the operator sharing is that of rank 36"]
    assert protocol.borrowed(compose("method=fft")) == []


def test_a_rank_that_a_grid_lacks_borrows_from_the_ranks_of_the_grid():
    """Even a rank of the paper borrows, and the line names the rank whose rates it takes."""
    grid = ["~protocol.learning_rates.lora.r8", "protocol.learning_rates.lora.r256.use=2e-3"]
    for rank in (1, 2):
        config = compose("method=lora", f"method.rank={rank}", *grid)
        assert config.training.learning_rate == 2e-3
        line = protocol.borrowed(config)[0]
        assert (
            line
            == f"the learning rate 0.002 is that of rank 32: the protocol has rates for the ranks 32, not for {rank}"
        )


RANKS = {"r8": 8, "r256": 64}


def test_the_two_directions_of_a_rank_agree():
    for paper_rank in (8, 256):
        assert protocol.paper_rank(RANKS, protocol.own_rank(RANKS, paper_rank)) == f"r{paper_rank}"
    # The other ranks of Figure 2 lie between these two ranks, by logarithm.
    assert [protocol.own_rank(RANKS, rank) for rank in (16, 32, 64, 128)] == [12, 18, 28, 42]
    assert protocol.paper_rank(RANKS, 12) is None
    assert protocol.own_rank({"r128": 32}, 128) == 32


def test_the_nearest_rank_is_nearest_by_logarithm():
    assert [protocol.nearest(RANKS, rank) for rank in (1, 8, 22, 23, 64, 500)] == [
        "r8",
        "r8",
        "r8",
        "r256",
        "r256",
        "r256",
    ]


def test_a_grid_that_the_protocol_lacks_is_named():
    with pytest.raises(ConfigError, match="lists no learning rates for hira"):
        protocol.rates({"learning_rates": {}, "ranks": RANKS}, "hira", 8)
