"""What npugraph_ex's own pattern pass, left on, makes of operators that it could fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ascend_passes import npu
from ascend_passes.ir import trace

INT8 = 1


def quantized(
    x: Tensor, residual: Tensor, gamma: Tensor, scale: Tensor, zero: Tensor
) -> tuple[Tensor, Tensor]:
    """`npu_add_rms_norm_quant` in two operators."""
    y, _, total = torch.ops.npu.npu_add_rms_norm(x, residual, gamma)
    return torch.ops.npu.npu_quantize(y, scale, zero, INT8, -1, True), total


def dynamically_quantized(
    x: Tensor, residual: Tensor, gamma: Tensor, smooth: Tensor
) -> tuple[Tensor, ...]:
    """`npu_add_rms_norm_dynamic_quant` in two operators."""
    y, _, total = torch.ops.npu.npu_add_rms_norm(x, residual, gamma)
    return *torch.ops.npu.npu_dynamic_quant(y, smooth_scales=smooth), total


def widened(x: Tensor, residual: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
    """`npu_add_rms_norm_cast` in two operators."""
    y, _, total = torch.ops.npu.npu_add_rms_norm(x, residual, gamma)
    return y, total, y.to(torch.float32)


FUSABLE: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "npu_add_rms_norm_quant": (quantized, ("x1", "x2", "gamma", "scales1", "zero_points1")),
    "npu_add_rms_norm_dynamic_quant": (
        dynamically_quantized,
        ("x1", "x2", "gamma", "smooth_scale1"),
    ),
    "npu_add_rms_norm_cast": (widened, ("x1", "x2", "gamma")),
}
"""The operators of ours that the pattern pass can emit: what it fuses, and what each input of that
becomes of the operator. Its other patterns make `npu_transpose_batchmatmul`, which is none of
ours."""


def emitted_by_the_wheel(name: str, *inputs: Tensor) -> bool:
    """Whether the pattern pass fuses these device tensors' graph into the operator."""
    targets: list[str] = []

    def compiler(gm: Any, values: Any) -> Any:
        def after(graph_module: Any, *_: Any) -> None:
            targets.extend(str(node.target) for node in graph_module.graph.nodes)

        options = {"post_grad_custom_post_pass": after, "force_eager": True}
        with trace.compiling(values) as fakes:
            return torch.npu.npugraph_ex.compile_fx(gm, fakes, options)

    torch._dynamo.reset()
    backend = lambda gm, values: trace.compile_inference(gm, values, compiler)  # noqa: E731
    with torch.no_grad():
        torch.compile(FUSABLE[name][0], backend=backend, dynamic=False)(*inputs)
    assert targets, "the pattern pass did not run"
    return f"npu.{name}.default" in targets


def refusals(name: str, *inputs: Tensor) -> list[str]:
    """Why our table refuses the same fusion on Atlas A2; empty where it is legal."""
    arguments = dict(zip(FUSABLE[name][1], inputs, strict=True))
    conditions = npu.legality(name, arguments, "Ascend910B")
    return [reason for holds, reason in conditions if not holds]
