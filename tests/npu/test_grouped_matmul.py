from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_passes import npu
from tests.npu.draw import floats, generator, integers, normal, seeds, tokens
from tests.npu.examples import groups

GROUPS = {"split_item": 3, "group_type": 0}
EXPERTS = 5
INT8_RESULTS = {5: (torch.float16, torch.float32), 15: (torch.bfloat16, torch.bfloat16)}
"""output_dtype -> the dtypes of results and of the columns' scales."""


def exact_groups(x, weight, counts):
    """Each row in float64 times the weight of its group, and the sum of the magnitudes."""
    of_row = [expert for expert, count in enumerate(counts) for _ in range(count)]
    pairs = [(x[row].double(), weight[expert].double()) for row, expert in enumerate(of_row)]
    exact = [(row[:, None] * columns).sum(0) for row, columns in pairs]
    sizes = [(row[:, None] * columns).abs().sum(0) for row, columns in pairs]
    return [torch.stack(one) if one else x.new_zeros(0, weight.shape[2]) for one in (exact, sizes)]


def counts_of(given):
    """How many rows each group has, from either kind of list."""
    listed = given["group_list"].tolist()
    if given["group_list_type"]:
        return listed
    return [end - start for start, end in zip([0, *listed], listed, strict=False)]


@given(seeds, tokens, st.integers(1, 40), st.sampled_from((0, 1)), floats)
def test_each_group_has_its_weight(seed, rows, depth, kind, dtype):
    """Within half a unit of the result, and what float32 loses over a sum of `depth` products."""
    source = generator(seed)
    x = normal(source, rows, depth, dtype=dtype)
    weight = normal(source, EXPERTS, depth, 7, dtype=dtype)
    groups_given = groups(source, rows, EXPERTS, kind)
    (found,) = npu.npu_grouped_matmul([x], [weight], **groups_given)
    exact, sizes = exact_groups(x, weight, counts_of(groups_given))
    assert found.dtype == dtype and found.shape == exact.shape
    rounding = torch.finfo(dtype).eps / 2 * exact.abs()
    bound = 1.02 * rounding + depth * 2.0**-24 * sizes + torch.finfo(dtype).smallest_normal
    assert bool(((found.double() - exact).abs() <= bound).all())


def test_a_group_without_rows_changes_nothing():
    x, weight = torch.randn(4, 8), torch.randn(3, 8, 6)
    for ends in ([0, 0, 4], [4, 4, 4], [0, 4, 4], [1, 1, 4]):
        (found,) = npu.npu_grouped_matmul([x], [weight], group_list=torch.tensor(ends), **GROUPS)
        exact, _ = exact_groups(
            x, weight, counts_of({"group_list": torch.tensor(ends), "group_list_type": 0})
        )
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_what_is_not_a_number_stays_in_its_group():
    x, weight = torch.randn(4, 8), torch.randn(2, 8, 6)
    weight[0] = torch.nan
    (found,) = npu.npu_grouped_matmul([x], [weight], group_list=torch.tensor([1, 4]), **GROUPS)
    assert found[0].isnan().all() and found[1:].isfinite().all()


def test_no_expert_is_multiplied_by_rows_of_others(monkeypatch):
    """The work is that of the rows, not that of all experts for each of them."""
    seen = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: (seen.append(len(a)), product(a, b))[1]
    )
    operator = npu.OPERATORS["npu_grouped_matmul"]
    operator.reference(
        [torch.randn(9, 4)],
        [torch.randn(128, 4, 3)],
        group_list=torch.arange(128).clamp(max=9),
        **GROUPS,
    )
    assert sum(seen) == 9


@given(seeds, tokens, st.integers(1, 40), st.sampled_from((0, 1)), st.sampled_from((5, 15)))
def test_int8_groups_are_summed_exactly_and_scaled(seed, rows, depth, kind, code):
    """Within half a unit of the result, and what float32 loses in the total and two products."""
    source = generator(seed)
    x, weight = integers(source, rows, depth), integers(source, EXPERTS, depth, 7)
    dtype, of_scale = INT8_RESULTS[code]
    scale = (torch.rand(EXPERTS, 7, generator=source) / 500 + 1e-4).to(of_scale)
    row_scale = torch.rand(rows, generator=source) / 50 + 1e-3
    groups_given = groups(source, rows, EXPERTS, kind)
    (found,) = npu.npu_grouped_matmul(
        [x],
        [weight],
        scale=[scale],
        per_token_scale=[row_scale],
        output_dtype=code,
        **groups_given,
    )
    columns = weight.double() * scale.double()[:, None]
    exact, _ = exact_groups(x * row_scale.double()[:, None], columns, counts_of(groups_given))
    assert found.dtype == dtype and found.shape == exact.shape
    rounding = (torch.finfo(dtype).eps / 2 + 3 * 2.0**-24) * exact.abs()
    bound = 1.02 * rounding + torch.finfo(dtype).smallest_normal
    assert bool(((found.double() - exact).abs() <= bound).all())


def test_a_transposed_int8_weight_is_the_same():
    x, weight = torch.ones(3, 4, dtype=torch.int8), torch.arange(40).view(2, 5, 4).to(torch.int8)
    scales = {"scale": [torch.ones(2, 5).bfloat16()], "per_token_scale": [torch.ones(3)]}
    given_groups = {"group_list": torch.tensor([1, 3]), "output_dtype": 15, **GROUPS}
    results = [
        npu.npu_grouped_matmul([x], [one], **scales, **given_groups)[0]
        for one in (weight.mT, weight.mT.contiguous())
    ]
    assert torch.equal(*results)
    assert results[0].tolist() == [[6, 22, 38, 54, 70], *[[86, 102, 118, 134, 150]] * 2]


@pytest.mark.parametrize(
    "other",
    [
        {"scale": [torch.ones(3, 6)]},
        {"per_token_scale": [torch.ones(4)], "output_dtype": 15},
        {"output_dtype": 15},
    ],
)
def test_int8_without_both_scales_says_so(other):
    x, weight = torch.ones(4, 8).to(torch.int8), torch.ones(3, 8, 6).to(torch.int8)
    given_groups = {"group_list": torch.tensor([1, 2, 4]), **GROUPS}
    with pytest.raises(NotImplementedError, match="only int8 with both scales"):
        npu.OPERATORS["npu_grouped_matmul"].reference([x], [weight], **(given_groups | other))


@pytest.mark.parametrize(
    "other",
    [
        {"bias": [torch.zeros(6)]},
        {"offset": [torch.ones(6)]},
        {"act_type": 5},
        {"split_item": 0},
        {"group_type": 2},
        {"group_list": None},
    ],
)
def test_what_has_no_reference_says_so(other):
    x, weight = torch.randn(4, 8), torch.randn(3, 8, 6)
    given_groups = {"group_list": torch.tensor([1, 2, 4]), **GROUPS}
    with pytest.raises(NotImplementedError, match="only plain groups of rows"):
        npu.OPERATORS["npu_grouped_matmul"].reference([x], [weight], **(given_groups | other))


@given(seeds, tokens, st.integers(1, 40), st.sampled_from((torch.bfloat16, torch.float16)))
def test_products_apart_are_those_of_each_weight(seed, rows, depth, dtype):
    """Bit for bit what a product alone gives, and near float64."""
    source = generator(seed)
    x = normal(source, rows, depth, dtype=dtype)
    weights = [normal(source, depth, width, dtype=dtype) for width in (7, 3)]
    weights.append(normal(source, 5, depth, dtype=dtype).T)
    found = npu.npu_grouped_matmul([x] * 3, weights, split_item=0, group_type=-1)
    for one, weight in zip(found, weights, strict=True):
        assert torch.equal(one, x @ weight)
        exact = (x.double()[:, :, None] * weight.double()).sum(1)
        sizes = (x.double()[:, :, None] * weight.double()).abs().sum(1)
        rounding = torch.finfo(dtype).eps / 2 * exact.abs()
        bound = 1.02 * rounding + depth * 2.0**-24 * sizes + torch.finfo(dtype).smallest_normal
        assert bool(((one.double() - exact).abs() <= bound).all())


@given(seeds, tokens, st.integers(1, 40), st.sampled_from((5, 15)), st.booleans())
def test_int8_products_apart_are_those_of_each_weight(seed, rows, depth, code, biased):
    """Exact totals, and within half a unit of the result and what float32 loses in the total and
    one product."""
    source = generator(seed)
    dtype, of_scale = INT8_RESULTS[code]
    x = integers(source, rows, depth)
    weights = [integers(source, depth, 7), integers(source, 5, depth).T]
    widths = [one.shape[1] for one in weights]
    scales = [(torch.rand(width, generator=source) / 500 + 1e-4).to(of_scale) for width in widths]
    biases = [torch.randint(-9999, 9999, (n,), generator=source).int() for n in widths]
    more = {"scale": scales, "output_dtype": code, "bias": biases if biased else None}
    found = npu.npu_grouped_matmul([x] * 2, weights, split_item=0, group_type=-1, **more)
    for one, weight, scale, bias in zip(found, weights, scales, biases, strict=True):
        total = (x.double()[:, :, None] * weight.double()).sum(1) + (bias.double() if biased else 0)
        exact = total * scale.double()
        rounding = (torch.finfo(dtype).eps / 2 + 2 * 2.0**-24) * exact.abs()
        bound = 1.02 * rounding + torch.finfo(dtype).smallest_normal
        assert one.dtype == dtype and one.shape == exact.shape
        assert bool(((one.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_products_apart_that_no_documentation_has_say_so(dtype):
    x, weight = [torch.ones(2, 4).to(dtype)] * 2, [torch.ones(4, 3).to(dtype)] * 2
    columns = [torch.ones(3)] * 2
    for more in (
        {"split_item": 3},
        {"act_type": 1},
        {"per_token_scale": [torch.ones(2)]},
        {"bias": columns},
        {"output_dtype": 15},
    ):
        with pytest.raises(NotImplementedError, match="apart"):
            npu.npu_grouped_matmul(x, weight, group_type=-1, **{"split_item": 0, **more})


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.int8, None), (torch.bfloat16, [torch.ones(3)] * 2)]
)
def test_products_apart_have_scales_where_they_are_of_int8(dtype, scale):
    x, weight = [torch.ones(2, 4).to(dtype)] * 2, [torch.ones(4, 3).to(dtype)] * 2
    with pytest.raises(NotImplementedError, match="int8 products apart need scales"):
        npu.npu_grouped_matmul(x, weight, scale=scale, group_type=-1, split_item=0)
