"""Graphs of dense decoder layers at real sizes, traced without weights: for estimates alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.compile.stages import fuse
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.engine.normalize import normalize
from ascend_passes.ir import trace
from ascend_passes.ir.graph import Context
from ascend_passes.options.plans import UNBOUNDED, Plan
from ascend_passes.options.value import Options
from ascend_passes.passes.flashcomm.sequence_parallel import sequence_parallel
from ascend_passes.passes.matmul_collective.matmul_collective import matmul_collective

GROUP = "tp"
EPSILON = 1e-6
BFLOAT16_CODE = 15
SAMPLE_TOKENS = 1013
"""Tokens of the trace; a prime, so that its symbol is that of no other size."""


@dataclass(frozen=True)
class Sizes:
    """A W8A8 model's sizes; the defaults are Qwen3-32B's, from its config.json."""

    hidden: int = 5120
    intermediate: int = 25600
    heads: int = 64
    kv_heads: int = 8
    head_size: int = 128
    layers: int = 64


def layers_graph(sizes: Sizes, layers: int, ranks: int) -> fx.Graph:
    """The functional graph of some layers on one rank, hidden states `[T, H]` in and out."""
    tokens = trace.symbolic_inputs([[SAMPLE_TOKENS]], [torch.int64], "cpu")[0]
    hidden = tokens.new_empty((tokens.shape[0], sizes.hidden), dtype=torch.bfloat16)
    heads, kv_heads = sizes.heads // ranks, max(1, sizes.kv_heads // ranks)
    width = (heads + 2 * kv_heads) * sizes.head_size
    shapes = [
        (width, sizes.hidden),
        (sizes.hidden, heads * sizes.head_size),
        (2 * sizes.intermediate // ranks, sizes.hidden),
        (sizes.hidden, sizes.intermediate // ranks),
    ]
    weights = [tokens.new_empty(shape, dtype=torch.int8) for shape in shapes]
    scales = [tokens.new_empty((shape[0],), dtype=torch.float32) for shape in shapes]
    gain = tokens.new_empty((sizes.hidden,), dtype=torch.bfloat16)

    def quantized_linear(x: Tensor, index: int, *parameters: Tensor) -> Tensor:
        rows, row_scale = npu.npu_dynamic_quant(x)
        found: Tensor = npu.npu_quant_matmul(
            rows,
            parameters[index].t(),
            parameters[index + 4],
            pertoken_scale=row_scale,
            output_dtype=BFLOAT16_CODE,
        )
        return found

    def summed(part: Tensor) -> Tensor:
        functional = torch.ops._c10d_functional
        total: Tensor = functional.wait_tensor(functional.all_reduce(part, "sum", GROUP))
        return total

    def model(hidden: Tensor, gain: Tensor, *parameters: Tensor) -> Tensor:
        for _ in range(layers):
            y = npu.npu_rms_norm(hidden, gain, EPSILON)[0]
            packed = quantized_linear(y, 0, *parameters)
            kv_size = kv_heads * sizes.head_size
            parts = packed.split([heads * sizes.head_size, kv_size, kv_size], dim=-1)
            query, key, worth = (
                part.reshape(1, -1, count, sizes.head_size).transpose(1, 2)
                for part, count in zip(parts, (heads, kv_heads, kv_heads), strict=True)
            )
            found = torch.nn.functional.scaled_dot_product_attention(
                query, key, worth, is_causal=True, enable_gqa=True
            )
            attended = found.transpose(1, 2).reshape(-1, heads * sizes.head_size)
            hidden = hidden + summed(quantized_linear(attended, 1, *parameters))
            y = npu.npu_rms_norm(hidden, gain, EPSILON)[0]
            active = npu.npu_swiglu(quantized_linear(y, 2, *parameters), -1)
            hidden = hidden + summed(quantized_linear(active, 3, *parameters))
        out: Tensor = npu.npu_rms_norm(hidden, gain, EPSILON)[0]
        return out

    return trace.trace(model, [hidden, gain, *weights, *scales]).graph


def after_passes(graph: fx.Graph, options: Options, ranks: int, flashcomm: bool) -> fx.Graph:
    """The graph after the passes, with FlashComm or without, whatever it costs."""
    switches = ",".join(filter(None, (options.passes, "-sequence_parallel.cost")))
    fused = options.matmul_reduce_scatter if flashcomm else options.matmul_all_reduce
    plan = Plan("estimate", 1, UNBOUNDED, flashcomm=flashcomm, matmul_collective=fused)
    context = Context(replace(options, passes=switches), plan)
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    normalize(copy)
    with assuming(Group(GROUP, ranks, 0)):
        for step in (sequence_parallel, fuse, matmul_collective):
            step(copy, context)
    return copy
