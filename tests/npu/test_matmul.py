from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascend_passes import npu
from ascend_passes.npu import bound
from ascend_passes.npu.matmul import chunked_matmul, cpu_sums_exactly, integer_matmul
from tests.npu.draw import generator, integers, normal, seeds, tokens
from tests.numerics import lsb_distance, ulp_distance

CODES = {torch.float16: 5, torch.bfloat16: 15}
widths = st.integers(1, 40)


@given(seeds, tokens, st.integers(1, 3000), widths)
def test_integer_sums_are_exact(seed, rows, depth, width):
    source = generator(seed)
    left, right = integers(source, rows, depth), integers(source, width, depth).T
    exact = left.long() @ right.long()
    assert torch.equal(integer_matmul(left, right).long(), exact)
    assert torch.equal(chunked_matmul(left, right).long(), exact)


@pytest.mark.parametrize("sides", [(-128, -128), (127, -128), (127, 127)])
def test_integer_sums_neither_saturate_nor_lose_odd_terms(sides):
    """127 * 127 is odd, and 4999 of them are over 2**24, beyond which float32 skips numbers."""
    left = torch.full((2, 4999), sides[0], dtype=torch.int8)
    right = torch.full((4999, 3), sides[1], dtype=torch.int8)
    for multiply in (integer_matmul, chunked_matmul):
        expected = torch.full((2, 3), sides[0] * sides[1] * 4999).int()
        assert torch.equal(multiply(left, right), expected)
    assert isinstance(cpu_sums_exactly(), bool)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_depth_of_one_writes_every_result(transposed):
    """Fresh memory is filled with a pattern, so a result that is not written shows."""
    left = torch.tensor([[3], [-5]], dtype=torch.int8)
    row, column = torch.tensor([[7, -2, 11]]), torch.tensor([[7], [-2], [11]])
    right = column.to(torch.int8).T if transposed else row.to(torch.int8)
    torch.use_deterministic_algorithms(True)
    try:
        result = integer_matmul(left, right)
    finally:
        torch.use_deterministic_algorithms(False)
    assert result.tolist() == [[21, -6, 33], [-35, 10, -55]]


@given(seeds, tokens, st.integers(1, 300), widths, st.sampled_from(list(CODES)), st.booleans())
def test_quant_matmul(seed, rows, depth, width, dtype, pertoken):
    source = generator(seed)
    x1, x2 = integers(source, rows, depth), integers(source, depth, width)
    scale = 0.001 + torch.rand(width, generator=source) / depth
    row_scale = 0.03 * torch.rand(rows, generator=source) if pertoken else None
    bias = torch.randint(-9999, 9999, (width,), generator=source).to(torch.int32)
    y = npu.npu_quant_matmul(
        x1, x2, scale, pertoken_scale=row_scale, bias=bias, output_dtype=CODES[dtype]
    )
    exact = (x1.long() @ x2.long() + bias).double() * scale.double()
    if row_scale is not None:
        exact = exact * row_scale.double().unsqueeze(-1)
    assert y.dtype == dtype
    assert ulp_distance(y, exact) <= bound("npu_quant_matmul", "y", dtype)


@given(seeds, tokens, st.integers(1, 300), widths)
def test_quant_matmul_adds_a_float_bias_after_scaling(seed, rows, depth, width):
    source = generator(seed)
    x1, x2 = integers(source, rows, depth), integers(source, depth, width)
    scale, bias = torch.tensor([0.03]), normal(source, width, dtype=torch.float32, spread=100.0)
    row_scale = torch.rand(rows, generator=source)
    y = npu.npu_quant_matmul(x1, x2, scale, pertoken_scale=row_scale, bias=bias, output_dtype=15)
    product = (x1.long() @ x2.long()).double() * 0.03 * row_scale.double().unsqueeze(-1)
    exact = product + bias.double()
    rounded = exact.abs() * 2.0**-8 + product.abs() * 2.0**-22
    assert bool(((y.double() - exact).abs() <= rounded).all())
    early = (x1.long() @ x2.long()).double() + bias.double()
    assert rows == 0 or not torch.allclose(y.double(), early * 0.03 * row_scale.double()[:, None])


@given(seeds, tokens, widths, st.booleans())
def test_quant_matmul_to_int8(seed, rows, width, in_words):
    source = generator(seed)
    x1, x2 = integers(source, rows, 64), integers(source, 64, width)
    scale = torch.full((width,), 2.0**-12)  # exact in 19 bits
    offset = torch.randint(-30, 30, (width,), generator=source).float()
    if in_words:
        y = npu.npu_quant_matmul(x1, x2, npu.npu_trans_quant_param(scale, offset))
    else:
        y = npu.npu_quant_matmul(x1, x2, scale, offset=offset)
    exact = (x1.long() @ x2.long()).double() * 2.0**-12 + offset.double()
    assert lsb_distance(y, exact) <= bound("npu_quant_matmul", "y in int8", torch.int8)


@given(seeds, st.integers(0, 3), tokens, widths, st.booleans())
def test_quant_matmul_broadcasts_batches(seed, batch, rows, width, shared):
    source = generator(seed)
    x1 = integers(source, batch, rows, 32)
    x2 = integers(source, *([1] if shared else [batch]), 32, width)
    y = npu.npu_quant_matmul(x1, x2, torch.tensor([0.01]), output_dtype=15)
    exact = (x1.long() @ x2.long()).double() * torch.tensor(0.01).double()
    assert ulp_distance(y, exact) <= bound("npu_quant_matmul", "y", torch.bfloat16)


def test_quant_matmul_refuses_what_it_has_no_numbers_for():
    x = torch.ones(2, 2, dtype=torch.int8)
    with pytest.raises(NotImplementedError, match="int32"):
        npu.npu_quant_matmul(x, x, torch.ones(1), output_dtype=3)
    with pytest.raises(NotImplementedError, match="int8 times int8"):
        npu.npu_quant_matmul(x, x, torch.ones(1), group_sizes=[1, 1, 32])
