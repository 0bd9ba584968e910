"""The operators: equality with the authors' code, and properties that hold for all sizes and options."""

import doctest
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from mora import blocked, grouped, operators

# No deadline: the duration of an example depends on the other load of the machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

GOLDEN = Path(__file__).parent.parent / "golden" / "operators.safetensors"

GROUPINGS = list(itertools.product(operators.GROUPS, operators.GROUPS))
# Every operator with every combination of its options.
VARIANTS = (
    [("truncation", {})]
    + [("sharing", {"in_groups": i, "out_groups": o, "wrap": w}) for i, o in GROUPINGS for w in (True, False)]
    + [
        (name, {"wrap": w, "surplus": s})
        for name in operators.BLOCKED
        for w in (True, False)
        for s in operators.SURPLUS
    ]
    + [("randproj", {"seed": 3})]
)
variants = st.sampled_from(VARIANTS)
sizes = st.integers(1, 40)
# r_hat can exceed k and d, and it can be so large that the padding wraps around several times.
squares = st.integers(1, 100)


def generic(q: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A random matrix (q, q), always the same for one q. The matrix and its blocks have full rank."""
    return torch.randn(q, q, generator=torch.Generator().manual_seed(q), dtype=torch.float64).to(dtype)


def golden_cases() -> list[dict]:
    with safe_open(GOLDEN, "pt") as file:
        return json.loads(file.metadata()["cases"])


def test_golden_file_is_complete():
    cases = golden_cases()
    assert len(cases) == 20
    assert {case["type"] for case in cases} == {1, 2, 3, 4, 6}


@pytest.mark.parametrize(
    "case", golden_cases(), ids=lambda c: f"type{c['type']}-{c['in_features']}-{c['out_features']}"
)
def test_equals_the_authors_code(case):
    with safe_open(GOLDEN, "pt") as file:
        M, x, y, delta = (file.get_tensor(f"{case['case']}.{name}").double() for name in ("M", "x", "y", "delta"))
    operator = operators.build_official(case["type"], case["in_features"], case["out_features"], case["r_hat"])
    torch.testing.assert_close(operator.apply(x, M), y, rtol=0, atol=1e-10)
    torch.testing.assert_close(operator.delta_weight(M), delta, rtol=0, atol=1e-10)


@given(st.sampled_from(GROUPINGS), sizes, sizes, squares)
def test_sharing_equals_its_definition(groups, k, d, q):
    """The reference loops over single features, with wrapped padding, as in types 1 to 4 of the authors' code."""
    operator = operators.build("sharing", k, d, q, in_groups=groups[0], out_groups=groups[1])
    x, y = torch.randn(k, dtype=torch.float64), torch.randn(q, dtype=torch.float64)

    def contiguous_group(i: int, size: int) -> int:
        short, longer = divmod(size, q)
        edge = longer * (short + 1)
        return i // (short + 1) if i < edge else longer + (i - edge) // short

    compressed = torch.zeros(q, dtype=torch.float64)
    if groups[0] == "strided":
        for j in range(k + -k % q):
            compressed[j % q] += x[j % k]
    else:
        for j in range(k):
            compressed[contiguous_group(j, k)] += x[j]
    torch.testing.assert_close(operator.compress(x), compressed)
    group = [i % q if groups[1] == "strided" else contiguous_group(i, d) for i in range(d)]
    assert torch.equal(operator.decompress(y), y[group])


@given(st.sampled_from(operators.BLOCKED), sizes, sizes, squares)
def test_the_block_operators_equal_their_definition(name, k, d, q):
    """The reference computes Eq. 8-11 block by block, with the angle of every pair."""
    x, M = torch.randn(k, dtype=torch.float64), generic(q)
    n = math.ceil(k / q)
    padded = x.repeat(2 + q // k)[: n * q]
    outputs = []
    for block in range(n):
        R = torch.eye(q, dtype=torch.float64)
        for j in range(q // 2 if name == "rotation" else 0):
            angle = block * 10_000 ** (-2 * j / q)
            first, second = j, j + q // 2
            R[first, first] = R[second, second] = math.cos(angle)
            R[first, second], R[second, first] = -math.sin(angle), math.sin(angle)
        outputs.append(M @ R @ padded[block * q : (block + 1) * q])
    expected = torch.cat(outputs)[torch.arange(d) % (n * q)]
    # The tolerance is large because the operator computes the angles in float32, as the authors' code does.
    torch.testing.assert_close(operators.build(name, k, d, q).apply(x, M), expected, rtol=0, atol=1e-4)


@given(variants, sizes, sizes, squares, st.sampled_from([(), (3,), (2, 3)]))
def test_apply_equals_the_delta_weight(variant, k, d, q, leading):
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    M, x = generic(q), torch.randn(*leading, k, dtype=torch.float64)
    y = operator.apply(x, M)
    assert y.shape == (*leading, d)
    torch.testing.assert_close(y, x @ operator.delta_weight(M).T, rtol=0, atol=1e-9)


@given(variants, sizes, sizes, squares, st.sampled_from([1.0, -1.0]))
def test_add_delta_equals_the_dense_sum(variant, k, d, q, sign):
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    M, weight = generic(q), torch.randn(d, k, dtype=torch.float64)
    # The two layouts of a weight: torch.nn.Linear has (d, k), Conv1D has the transpose (k, d).
    for target in (weight.clone(), weight.T.clone(memory_format=torch.contiguous_format).T):
        operator.add_delta_(target, M, sign)
        torch.testing.assert_close(target, weight + sign * operator.delta_weight(M), rtol=0, atol=1e-12)


@given(variants, sizes, sizes, squares)
def test_sum_delta_is_the_transpose_of_delta_weight(variant, k, d, q):
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    M, grad = generic(q).requires_grad_(), torch.randn(d, k, dtype=torch.float64)
    (expected,) = torch.autograd.grad(operator.delta_weight(M), M, grad)
    torch.testing.assert_close(operator.sum_delta(grad), expected, rtol=0, atol=1e-9)


@given(variants, sizes, sizes, squares, st.integers(1, 300))
def test_delta_does_not_depend_on_the_size_of_the_cache(variant, k, d, q, cached):
    """The deltas of the other tests fit into CACHED. A large layer is merged in several pieces, as here."""
    name, options = variant
    operator, M = operators.build(name, k, d, q, **options), generic(q)
    with pytest.MonkeyPatch.context() as patch:
        for module in (grouped, blocked):
            patch.setattr(module, "CACHED", cached)
        delta = operator.delta_weight(M)
    assert torch.equal(delta, operator.delta_weight(M))


@given(variants, sizes, sizes, squares)
def test_shapes(variant, k, d, q):
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    compressed = (q,) if name in operators.FACTORED else (math.ceil(k / q), q)
    assert operator.compress(torch.randn(2, k)).shape == (2, *compressed)
    assert operator.decompress(torch.randn(2, *compressed)).shape == (2, d)
    assert operator.delta_weight(torch.randn(q, q)).shape == (d, k)
    assert (operator.in_features, operator.out_features, operator.r_hat) == (k, d, q)


@given(variants, sizes, sizes, squares, st.sampled_from([torch.float32, torch.bfloat16]))
def test_low_precision_is_close_to_float64(variant, k, d, q, dtype):
    name, options = variant
    operator = operators.build(name, k, d, q, **options)
    M, x = generic(q, dtype), torch.randn(4, k).to(dtype)
    y, delta = operator.apply(x, M), operator.delta_weight(M)
    assert y.dtype == delta.dtype == dtype
    expected = operator.apply(x.double(), M.double())
    unit = torch.finfo(dtype).eps
    # The rounding error grows with the number of summands. A sum has at most k + q summands of about size 1.
    torch.testing.assert_close(y.double(), expected, rtol=8 * unit, atol=8 * unit * (k + q))
    torch.testing.assert_close(delta.double(), operator.delta_weight(M.double()), rtol=8 * unit, atol=8 * unit * q)


@given(st.sampled_from([v for v in VARIANTS if v[0] in operators.FACTORED]), sizes, sizes, squares)
def test_rank_of_the_factored_operators(variant, k, d, q):
    name, options = variant
    delta = operators.build(name, k, d, q, **options).delta_weight(generic(q))
    assert torch.linalg.matrix_rank(delta, rtol=1e-10) == min(q, k, d)


@given(st.sampled_from([v for v in VARIANTS if v[0] in operators.BLOCKED]), sizes, squares)
def test_rank_of_the_block_operators_is_full(variant, k, q):
    name, options = variant
    delta = operators.build(name, k, k, q, **options).delta_weight(generic(q))
    assert torch.linalg.matrix_rank(delta, rtol=1e-12) == k


def test_every_operator_is_in_one_family():
    assert sorted(operators.NAMES) == sorted(operators.FACTORED + operators.BLOCKED)


@given(st.sampled_from(GROUPINGS), st.booleans(), sizes, sizes, squares)
def test_spread_is_the_transpose_of_sum(groups, wrap, k, d, q):
    sharing = operators.build("sharing", k, d, q, in_groups=groups[0], out_groups=groups[1], wrap=wrap)
    truncation = operators.build("truncation", k, d, q)
    for grouping in (sharing.inputs, sharing.outputs, truncation.inputs):
        x, y = torch.randn(grouping.size, dtype=torch.float64), torch.randn(q, dtype=torch.float64)
        torch.testing.assert_close(grouping.sum(x) @ y, x @ grouping.spread(y))


@given(st.sampled_from(operators.BLOCKED), st.booleans(), sizes, sizes, squares)
def test_fold_leaves_no_input_dead(name, wrap, k, d, q):
    fold = operators.build(name, k, d, q, wrap=wrap, surplus="fold").delta_weight(generic(q))
    drop = operators.build(name, k, d, q, wrap=wrap, surplus="drop").delta_weight(generic(q))
    assert (fold != 0).any(dim=0).all()
    if k <= d:
        assert torch.equal(fold, drop)
    out_blocks = math.ceil(d / q)
    assert torch.equal((drop != 0).any(dim=0), torch.arange(k) < q * out_blocks)


@pytest.mark.parametrize(("surplus", "dead"), [("drop", 0.623), ("fold", 0.0)])
def test_dead_inputs_of_a_llama_down_proj(surplus, dead):
    k, d = 11008, 4096
    q = operators.square_size(k, d, 8, even=True)
    operator = operators.build("rotation", k, d, q, surplus=surplus)
    x = torch.zeros(k, requires_grad=True)
    # The gradient of a random projection of the output is 0 exactly at the dead inputs.
    (operator.apply(x, generic(q, torch.float32)) @ torch.randn(d)).backward()
    assert (x.grad == 0).float().mean().item() == pytest.approx(dead, abs=1e-3)


@pytest.mark.parametrize(("size", "q", "expected"), [(256, 64, 112), (768, 443, 768)])
def test_rank_after_merging_both_groupings(size, q, expected):
    def sum_of_updates(*types: int) -> torch.Tensor:
        weight = torch.zeros(size, size, dtype=torch.float64)
        for mora_type in types:
            M = torch.randn(q, q, generator=torch.Generator().manual_seed(mora_type), dtype=torch.float64)
            operators.build_official(mora_type, size, size, q).add_delta_(weight, M)
        return weight

    rank = torch.linalg.matrix_rank
    assert rank(sum_of_updates(1)) == q
    assert rank(sum_of_updates(1, 2)) == expected
    assert rank(sum_of_updates(1, 2, 3, 4)) == expected


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 512), st.booleans())
def test_square_size_is_the_largest_within_the_budget_of_lora(k, d, r, even):
    q = operators.square_size(k, d, r, even=even)
    assert q >= 1
    assert q * q <= (k + d) * r
    step = 2 if even else 1
    assert (q + step) ** 2 > (k + d) * r, "a larger square is within the budget"
    assert not even or q == 1 or q % 2 == 0


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 512))
def test_square_size_rounds_to_the_nearest_integer(k, d, r):
    assert operators.square_size(k, d, r, rounding="nearest") == int(math.sqrt((k + d) * r) + 0.5)


# (k, d) -> r_hat in the authors' code at r = 8, 128, 256. The authors' code rounds to the nearest integer.
OFFICIAL_R_HAT = {
    (4096, 4096): (256, 1024, 1448),
    (4096, 11008): (348, 1390, 1966),
    (768, 768): (111, 443, 627),
    (768, 2560): (163, 653, 923),
    (2048, 2048): (181, 724, 1024),
    (2048, 5461): (245, 980, 1386),
}


@pytest.mark.parametrize("shape", OFFICIAL_R_HAT)
def test_square_size_rounds_down_where_the_authors_code_rounds(shape):
    for r, official in zip((8, 128, 256), OFFICIAL_R_HAT[shape], strict=True):
        exact = math.sqrt(sum(shape) * r)
        assert official == int(exact + 0.5)
        assert operators.square_size(*shape, r) == operators.square_size(*reversed(shape), r) == math.floor(exact)
        assert operators.square_size(*shape, r, rounding="nearest") == official
        assert official - operators.square_size(*shape, r) in (0, 1)


def test_square_size_of_the_paper():
    assert operators.square_size(4096, 4096, 8) == 256
    assert operators.square_size(4096, 4096, 128) == 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "shearing"}, f"operator must be one of {', '.join(operators.NAMES)}, got 'shearing'"),
        ({"name": "randproj", "seed": -1}, r"seed must be at least 0, got -1"),
        ({"in_groups": "random"}, r"in_groups must be one of strided, contiguous, got 'random'"),
        ({"out_groups": "random"}, r"out_groups must be one of strided, contiguous, got 'random'"),
        ({"surplus": "keep"}, r"surplus must be one of drop, fold, got 'keep'"),
        ({"r_hat": 0}, r"at least 1"),
        ({"in_features": -6}, r"at least 1"),
    ],
)
def test_errors_have_the_allowed_values_and_the_sizes(options, message):
    arguments = {"name": "sharing", "in_features": 6, "out_features": 4, "r_hat": 3} | options
    with pytest.raises(ValueError, match=message) as error:
        operators.build(**arguments)
    for size in ("in_features", "out_features", "r_hat"):
        assert f"{size}={arguments[size]}" in str(error.value)


def test_other_errors():
    with pytest.raises(ValueError, match=r"mora_type must be one of 1, 2, 3, 4, 6, got 5"):
        operators.build_official(5, 6, 4, 3)
    with pytest.raises(ValueError, match=r"must be positive, got 6, 4, 0"):
        operators.square_size(6, 4, 0)
    with pytest.raises(ValueError, match="rounding must be one of floor, nearest, got 'up'"):
        operators.square_size(6, 4, 1, rounding="up")


def test_docstrings():
    results = doctest.testmod(operators)
    assert results.attempted > 3
    assert results.failed == 0
