"""A reduce_scatter's zero rows are appended where few bytes move, and nothing is computed twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.cost.profiles import Profile
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.ir.graph import Context, operator_name, value
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import Options
from ascend_passes.passes.flashcomm.sequence_parallel import sequence_parallel
from tests.graphs import traced

TOKENS, WIDTH, INNER = 7, 16, 48
RANKS = 2
PAD = "aten::constant_pad_nd"
MEMORY_ALONE = Profile("memory alone", "none", {"float32": 1e12, "int8": 1e12}, 1e9, 1e12)
GAIN = torch.ones(WIDTH)


def summed(part: Tensor) -> Tensor:
    functional = torch.ops._c10d_functional
    return functional.wait_tensor(functional.all_reduce(part, "sum", "tp"))


def normed(x: Tensor, gain: Tensor) -> Tensor:
    return npu.npu_rms_norm(x, gain, 1e-6)[0]


def rewritten(
    model: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    tmp_path,
    off: str = "",
    dynamic: bool = False,
) -> fx.Graph:
    profile = tmp_path / "profile.json"
    profile.write_text(MEMORY_ALONE.to_json())
    graph = traced(model, inputs, dynamic).graph
    passes = ",".join(filter(None, ("-sequence_parallel.cost", off)))
    options = Options(flashcomm=True, passes=passes, profile=str(profile))
    with assuming(Group("tp", RANKS, 0)):
        report = sequence_parallel(graph, Context(options, Plan("all", 1, 100, flashcomm=True)))
    graph.lint()
    assert report.fired, report
    return graph


def pads(graph: fx.Graph) -> list[tuple[torch.dtype, list[int]]]:
    """Type and columns of what is padded."""
    return [
        (value(node).dtype, list(value(node).shape[1:]))
        for node in graph.nodes
        if operator_name(node) == PAD
    ]


def counts(graph: fx.Graph) -> Counter[str]:
    return Counter(map(operator_name, graph.nodes))


def mlp(x: Tensor, gain: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """An all_reduce, then a block between a norm and another all_reduce."""
    x = summed(x)
    inner = torch.nn.functional.silu(normed(x, gain) @ up)
    return normed(x + summed(inner @ down), gain)


MLP = [torch.randn(TOKENS, WIDTH), GAIN, torch.randn(WIDTH, INNER), torch.randn(INNER, WIDTH)]


@pytest.mark.parametrize("dynamic", [False, True])
def test_gathered_rows_stay_padded_up_to_the_next_reduce_scatter(tmp_path, dynamic: bool) -> None:
    found = rewritten(mlp, MLP, tmp_path, dynamic=dynamic)
    # Only the model's input is padded: nothing row-wise stands in front of its all_reduce.
    assert pads(found) == [(torch.float32, [WIDTH])]
    assert counts(found)["aten::mm"] == 2
    padded = [n for n in found.nodes if operator_name(n) == "aten::mm"]
    assert [int(value(node).shape[0]) for node in padded] == [TOKENS + 1] * 2


def test_switched_off_each_partial_sum_is_padded(tmp_path) -> None:
    found = rewritten(mlp, MLP, tmp_path, off="-sequence_parallel.pad_early")
    assert pads(found) == [(torch.float32, [WIDTH])] * 2


def test_rows_that_the_ranks_divide_are_not_padded(tmp_path) -> None:
    found = rewritten(mlp, [torch.randn(TOKENS + 1, WIDTH), *MLP[1:]], tmp_path)
    assert pads(found) == []


def test_what_others_read_without_padding_is_not_computed_twice(tmp_path) -> None:
    def model(x: Tensor, gain: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        x = summed(x)
        inner = torch.nn.functional.silu(normed(x, gain) @ up)
        return normed(x + summed(inner @ down), gain), inner.cumsum(0)

    found = rewritten(model, MLP, tmp_path)
    assert counts(found)["aten::mm"] == 2
    assert pads(found) == [(torch.float32, [WIDTH])] * 2  # the second product's, not the wide inner


QUANTIZED = [
    torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16),
    GAIN.bfloat16(),
    torch.randint(-9, 9, (WIDTH, WIDTH), dtype=torch.int8),
    torch.rand(WIDTH),
]


def attention(x: Tensor, gain: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Rows depend on each other in front of a quantized product."""
    x = summed(x)
    rows, per_token = npu.npu_dynamic_quant(normed(x, gain).cumsum(0))
    product = npu.npu_quant_matmul(rows, weight, scale, pertoken_scale=per_token, output_dtype=15)
    return normed(x + summed(product), gain)


def test_int8_rows_and_their_scales_are_padded_behind_attention(tmp_path) -> None:
    found = rewritten(attention, QUANTIZED, tmp_path)
    assert pads(found)[1:] == [(torch.int8, [WIDTH]), (torch.float32, [])]
    assert counts(found)["npu::npu_dynamic_quant"] == 1


def test_a_wide_operand_is_not_padded_for_a_narrow_product(tmp_path) -> None:
    def model(x: Tensor, gain: Tensor, up: Tensor, down: Tensor) -> Tensor:
        x = summed(x)
        inner = (normed(x, gain) @ up).cumsum(0)
        return normed(x + summed(inner @ down), gain)

    found = rewritten(model, MLP, tmp_path)
    assert pads(found)[1:] == [(torch.float32, [WIDTH])]


def test_a_square_of_tokens_does_not_confuse_weights_with_rows(tmp_path) -> None:
    """As many tokens as columns: a computed weight and a computed gain look like rows."""

    def model(x: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
        x = summed(x)
        rows = normed(x, gain) * torch.sigmoid(gain)
        return normed(x + summed(rows @ torch.tanh(weight)), gain)

    size = 7
    inputs = [torch.randn(size, size), torch.ones(size), torch.randn(size, size)]
    found = rewritten(model, inputs, tmp_path)
    for node in found.nodes:
        if operator_name(node) in ("aten::tanh", "aten::sigmoid"):
            assert list(value(node).shape) in ([size, size], [size])
    (product,) = (n for n in found.nodes if operator_name(n) == "aten::mm")
    assert [list(value(one).shape) for one in product.args] == [[size + 1, size], [size, size]]
