"""torch.ao's `quantized_decomposed` operators in NPU operators and plain arithmetic.

Quantizing becomes `npu_quantize` or `npu_dynamic_quant`; reading back is written out, so that the
rules for quantized matmuls find it. An operator stays where neither would serve the NPU's matmul.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from ascend_passes.engine.site import Arguments, Site, Translation, refuse_unless
from ascend_passes.frontends.vllm_operators import translate
from ascend_passes.ir.arguments import named_arguments
from ascend_passes.ir.content import all_zero, comparable
from ascend_passes.ir.graph import Context, is_call, operator_name, same_strides, value, written
from ascend_passes.ir.wording import short
from ascend_passes.passes.constants.facts import Fact, record, untouched
from ascend_passes.passes.writes.eliminate_zeros import filled_with
from ascend_passes.report.value import Report

aten = torch.ops.aten
INT8 = 1
"""torch's ScalarType code of int8, as NPU operators take it."""
FULL_RANGE = (-128, 127)
MATMUL_RESULTS = (torch.bfloat16, torch.float16)
QUANTIZED = "ascend_quantized"
"""Key of a quantized node's meta entry: the scale and the zero point that the model gave."""
ZERO = "ascend_zero"
"""Key of a placeholder's meta entry: its content was found to be zero, see `Fact`."""


def quantized_decomposed(graph: fx.Graph, context: Context) -> Report:
    """Translate the operators in place; `fired` counts each by its name."""
    return translate(graph, context, TRANSLATIONS, "quantized_decomposed")


def find_zero_points(graph: fx.Graph, context: Context) -> Report:
    """Mark the parameters that are zero points of zero, and record that the graph rests on it.

    The NPU's matmul takes symmetric weights, and only the content of a parameter says whether a
    checkpoint's are.
    """
    calls = [named_arguments(n) for n in graph.nodes if operator_name(n) in TRANSLATIONS]
    points = {given.get("zero_points", given.get("zero_point")) for given in calls}
    found = 0
    for node, tensor in untouched(graph, context).items() if points else ():
        if node in points and comparable(tensor) and all_zero(tensor):
            record(node, Fact(str(node.target)))
            node.meta[ZERO] = True
            found += 1
    return Report(fired={"find_zero_points": found})


def is_zero(argument: Any) -> bool:
    """Whether a zero point is absent or known to be zero."""
    if not isinstance(argument, fx.Node):
        return argument is None or argument == 0
    if argument.meta.get(ZERO):
        return True
    writes = (target for user in argument.users for target in written(user))
    return filled_with(argument) == 0 and argument not in writes


def quantize_per_tensor(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`(input, scale, zero_point, quant_min, quant_max, dtype)`: one scale, a number or a tensor.

    Beside bfloat16 the fused operators want a bfloat16 scale: rounding it moves a value by 1/4 LSB
    at most, and it is done where all readers take the rounded one as well. A zero point of int8 is
    exact in bfloat16.
    """
    refuse_range(given)
    x = given["input"]
    half = value(x).dtype == torch.bfloat16 and all(map(reads_bfloat16, site.node.users))
    scale = one_number(site, given["scale"], x, torch.bfloat16 if half else torch.float32)
    zero = None
    if not is_zero(given["zero_point"]):
        zero = one_number(site, given["zero_point"], x, torch.int8)
        zero = cast_to(site, zero, torch.bfloat16 if half else torch.int32)
    return {"0": noted_quantize(site, given, scale, zero, -1, given["scale"], given["zero_point"])}


def reads_bfloat16(reader: fx.Node) -> bool:
    """Whether a node reads a row back in bfloat16, with the scale of its quantization."""
    name = "quantized_decomposed::dequantize_per_tensor"
    return operator_name(reader) == name and (
        named_arguments(reader).get("out_dtype") == torch.bfloat16
    )


def quantize_per_channel(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`(input, scales, zero_points, axis, quant_min, quant_max, dtype)`: a weight, as a rule."""
    refuse_range(given)
    scale = cast_to(site, given["scales"], torch.float32)
    points, axis = given["zero_points"], given["axis"]
    zero = None if is_zero(points) else cast_to(site, points, torch.int32)
    return {"0": noted_quantize(site, given, scale, zero, axis, given["scales"], points)}


def noted_quantize(
    site: Site, given: Arguments, scale: fx.Node, zero: fx.Node | None, axis: int, *origin: Any
) -> fx.Node:
    """`npu_quantize` of the input, which remembers what the model gave as scale and zero point."""
    new = site.npu(
        "npu_quantize",
        input=given["input"],
        scales=scale,
        zero_points=zero,
        dtype=INT8,
        axis=axis,
        div_mode=True,
    )
    refuse_layout(site.node, new)
    new.meta[QUANTIZED] = origin
    return new


def dequantize_per_tensor(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`(input, scale, zero_point, ..., out_dtype)`: the row read back with the scale that made it.

    One multiplication in bfloat16, as the operator's own.
    """
    x, dtype = given["input"], given.get("out_dtype") or torch.float32
    refuse_unless(
        x.meta.get(QUANTIZED) == (given["scale"], given["zero_point"]),
        "the row was not quantized in this graph with the same scale and zero point",
    )
    refuse_result(dtype)
    refuse_unless(
        dtype == torch.bfloat16,
        "npu_quant_matmul gives float16 from one scale only with an int64 one",
    )
    scale = x.args[1]
    refuse_unless(
        value(scale).dtype == dtype, "the row, or a reader of it, has another dtype than bfloat16"
    )
    row = site.call(aten._to_copy.default, x, dtype=dtype)
    if not is_zero(given["zero_point"]):
        zero = one_number(site, given["zero_point"], x, torch.int8)
        row = site.call(aten.sub.Tensor, row, zero)
    return {"0": site.call(aten.mul.Tensor, row, scale)}


def dequantize_per_channel(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`(input, scales, zero_points, axis, ..., out_dtype)`: int8 weight [O, K], a scale a channel.

    Written out as the operator computes it: in float32, rounded once.
    """
    weight, dtype = given["input"], given.get("out_dtype") or torch.float32
    fake = value(weight)
    refuse_result(dtype)
    refuse_unless(
        fake.dtype == torch.int8 and fake.dim() == 2 and given["axis"] == 0,
        "npu_quant_matmul takes int8 weights with a scale for each output channel",
    )
    refuse_unless(
        is_zero(given["zero_points"]),
        "npu_quant_matmul takes symmetric weights; zero points are not known to be 0",
    )
    scale = cast_to(site, given["scales"], torch.float32)
    column = site.call(aten.view.default, scale, [fake.shape[0], 1])
    wide = site.call(aten._to_copy.default, weight, dtype=torch.float32)
    product = site.call(aten.mul.Tensor, wide, column)
    return {"0": site.call(aten._to_copy.default, product, dtype=dtype)}


def quantize_per_token(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`(input, scales, zero_points, ...)` by `choose_qparams_per_token`: `npu_dynamic_quant`.

    The operator keeps its scale in float32, so everyone who reads the row must take that one.
    """
    refuse_range(given)
    scales, points, x = given["scales"], given["zero_points"], given["input"]
    chosen = scales.args[0] if is_call(scales, operator.getitem) else None
    refuse_unless(
        chosen is not None
        and operator_name(chosen) == "quantized_decomposed::choose_qparams_per_token"
        and chosen.args[0] is x
        and is_call(points, operator.getitem)
        and (points.args, scales.args[1]) == ((chosen, 1), 0),
        "npu_dynamic_quant is symmetric and chooses its scales, as choose_qparams_per_token does",
    )
    for reader in site.node.users:
        read = named_arguments(reader)
        refuse_unless(
            operator_name(reader) == "quantized_decomposed::dequantize_per_token"
            and (read["scales"], read["zero_points"]) == (scales, points),
            "the row is read otherwise than by dequantize_per_token with its own scales",
        )
        refuse_result(read.get("output_dtype", torch.float32))
    both = site.npu("npu_dynamic_quant", input=x)
    row = site.item(both, 0)
    refuse_layout(site.node, row)
    row.meta[QUANTIZED] = (scales, points)
    return {"0": row}


def dequantize_per_token(site: Site, given: Arguments) -> Mapping[str, fx.Node]:
    """`(input, scales, zero_points, ..., output_dtype)`: the row times its scale."""
    x, dtype = given["input"], given.get("output_dtype", torch.float32)
    refuse_unless(
        x.meta.get(QUANTIZED) == (given["scales"], given["zero_points"]),
        "the row was not quantized in this graph by npu_dynamic_quant",
    )
    scale = site.call(aten.unsqueeze.default, site.item(x.args[0], 1), -1)
    wide = site.call(aten._to_copy.default, x, dtype=torch.float32)
    product = site.call(aten.mul.Tensor, wide, scale)
    return {"0": site.call(aten._to_copy.default, product, dtype=dtype)}


def refuse_range(given: Arguments) -> None:
    """Raise `Refused` unless a quantization is to all of int8."""
    dtype, bounds = given["dtype"], (given["quant_min"], given["quant_max"])
    refuse_unless(dtype == torch.int8, f"npu_quant_matmul takes int8, not {short(dtype)}")
    known = not any(isinstance(bound, fx.Node) for bound in bounds)
    refuse_unless(known, "its range is in tensors, npu_quantize's is fixed")
    refuse_unless(
        bounds == FULL_RANGE, f"it clamps to {list(bounds)}, npu_quantize to {list(FULL_RANGE)}"
    )


def refuse_layout(node: fx.Node, row: fx.Node) -> None:
    """Raise `Refused` unless the operator's row lies in memory as the model's does."""
    alike = same_strides(value(node), value(row))
    refuse_unless(alike, "the row is not dense, and the NPU's operators give dense rows")


def refuse_result(dtype: torch.dtype) -> None:
    """Raise `Refused` unless the NPU's matmul can give what is read back."""
    refuse_unless(
        dtype in MATMUL_RESULTS, f"npu_quant_matmul gives float16 or bfloat16, not {short(dtype)}"
    )


def one_number(site: Site, number: Any, like: fx.Node, dtype: torch.dtype) -> fx.Node:
    """A number, or a tensor of one element, as a tensor of shape [1]."""
    if not isinstance(number, fx.Node):
        device = value(like).device
        return site.call(aten.full.default, [1], number, dtype=dtype, device=device)
    return cast_to(site, site.call(aten.view.default, number, [1]), dtype)


def cast_to(site: Site, tensor: fx.Node, dtype: torch.dtype) -> fx.Node:
    """The tensor in a dtype."""
    if value(tensor).dtype == dtype:
        return tensor
    return site.call(aten._to_copy.default, tensor, dtype=dtype)


TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        "quantized_decomposed::quantize_per_tensor": quantize_per_tensor,
        "quantized_decomposed::dequantize_per_tensor": dequantize_per_tensor,
        "quantized_decomposed::quantize_per_channel": quantize_per_channel,
        "quantized_decomposed::dequantize_per_channel": dequantize_per_channel,
        "quantized_decomposed::quantize_per_token": quantize_per_token,
        "quantized_decomposed::dequantize_per_token": dequantize_per_token,
    }
)
