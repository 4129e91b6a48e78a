"""The graph and the rules that `bench compile` gives to both pattern matchers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor, fx
from torch.nn.functional import silu

from ascend_passes import npu
from ascend_passes.engine.rule import Rule
from ascend_passes.ir import trace

EPSILON = 1e-6
INT8 = 1
"""ACL's code of the int8 dtype, `npu_quantize`'s argument."""
TOKENS, HIDDEN, INTERMEDIATE, KEY_VALUE = 16, 5120, 25600, 1024
"""Qwen3-32B's sizes; 64 query heads and 8 key-value heads of 128."""
QUERY = 64 * 128
Rows = Annotated[Tensor, "N H"]
Gain = Annotated[Tensor, "H"]
EXAMPLES = [{"N": 4, "H": 64}]


def spelled_rms_norm(x: Rows, gamma: Gain, *, eps: float) -> Tensor:
    """RMSNorm as Qwen3's module writes it."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return gamma * wide.to(torch.bfloat16)


def one_rms_norm(x: Rows, gamma: Gain, *, eps: float) -> Tensor:
    """RMSNorm as one operator."""
    normed: Tensor = npu.npu_rms_norm(x, gamma, eps)[0]
    return normed


def spelled_swiglu(gate_up: Annotated[Tensor, "N 2*H"]) -> Tensor:
    """SwiGLU of packed rows."""
    half = gate_up.shape[-1] // 2
    return silu(gate_up[..., :half]) * gate_up[..., half:]


def one_swiglu(gate_up: Annotated[Tensor, "N 2*H"]) -> Tensor:
    """SwiGLU as one operator."""
    activated: Tensor = npu.npu_swiglu(gate_up, -1)
    return activated


def spelled_add_rms_norm(
    x: Rows, residual: Rows, gamma: Gain, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Residual add, then RMSNorm."""
    total = x + residual
    return npu.npu_rms_norm(total, gamma, eps)[0], total


def one_add_rms_norm(x: Rows, residual: Rows, gamma: Gain, *, eps: float) -> tuple[Tensor, Tensor]:
    """Residual add and RMSNorm as one operator."""
    normed, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return normed, total


def spelled_add_rms_norm_quant(
    x: Rows, residual: Rows, gamma: Gain, scale: Gain, *, eps: float
) -> tuple[Tensor, Tensor]:
    """The fused norm, quantized."""
    normed, _, total = npu.npu_add_rms_norm(x, residual, gamma, eps)
    return npu.npu_quantize(normed, scale, None, INT8, -1), total


def one_add_rms_norm_quant(
    x: Rows, residual: Rows, gamma: Gain, scale: Gain, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Residual add, RMSNorm and quantize as one operator."""
    rows, _, total = npu.npu_add_rms_norm_quant(x, residual, gamma, scale, None, epsilon=eps)
    return rows, total


PAIRS = (
    (spelled_rms_norm, one_rms_norm),
    (spelled_swiglu, one_swiglu),
    (spelled_add_rms_norm, one_add_rms_norm),
    (spelled_add_rms_norm_quant, one_add_rms_norm_quant),
)
"""Pattern and replacement, in the order in which they feed each other."""


def paired_rules() -> Iterator[Rule]:
    """The pairs as rules of this package."""
    for pattern, replacement in PAIRS:
        yield Rule(pattern, replacement, examples=EXAMPLES, name=pattern.__name__)


def decoder(layers: int) -> fx.GraphModule:
    """A Qwen3-32B-shaped decoder with merged projections, traced with fake weights.

    Attention is left out between the projections; no rule looks at it.
    """
    bfloat16, int8 = torch.bfloat16, torch.int8
    shapes = ([TOKENS, HIDDEN], [HIDDEN], [HIDDEN], [QUERY])
    dtypes = (bfloat16, bfloat16, bfloat16, bfloat16)
    weights = (
        [HIDDEN, QUERY + 2 * KEY_VALUE],
        [QUERY, HIDDEN],
        [HIDDEN, 2 * INTERMEDIATE],
        [INTERMEDIATE, HIDDEN],
    )
    wanted = [*dtypes, int8, bfloat16, int8, bfloat16]
    inputs = trace.fake_inputs([*shapes, *weights], wanted, "cpu")
    return trace.trace(decoder_function(layers), inputs)


def decoder_function(layers: int):  # type: ignore[no-untyped-def]
    """`layers` decoder layers that share their weights; each use is a node of its own."""

    def forward(  # type: ignore[no-untyped-def]
        hidden, gamma, scale, ones, query_key_value, output, gate_up, down
    ):
        residual = hidden
        for _ in range(layers):
            rows = npu.npu_quantize(
                spelled_rms_norm(residual, gamma, eps=EPSILON), scale, None, INT8, -1
            )
            heads = rows.to(torch.bfloat16) @ query_key_value.to(torch.bfloat16)
            residual = residual + (heads[:, :QUERY] * ones) @ output
            rows = npu.npu_quantize(
                spelled_rms_norm(residual, gamma, eps=EPSILON), scale, None, INT8, -1
            )
            wide = rows.to(torch.bfloat16) @ gate_up.to(torch.bfloat16)
            residual = residual + spelled_swiglu(wide) @ down
        return spelled_rms_norm(residual, gamma, eps=EPSILON)

    return forward
