"""Our pass in vllm-ascend's own pass manager, on a small graph; prints what fired as JSON.

A program of the tests; it runs where vLLM and vllm-ascend can be imported.
"""

from __future__ import annotations

import json

import torch
from vllm.compilation.passes.inductor_pass import pass_context
from vllm.config.utils import Range
from vllm_ascend.compilation.graph_fusion_pass_manager import GraphFusionPassManager

import ascend_passes
from ascend_passes import npu
from ascend_passes.ir import trace
from ascend_passes.vllm.passes import AscendDensePass

ROWS, WIDTH = 8, 64


def block(x: torch.Tensor, residual: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """What vllm-ascend's layers leave in a graph: an add, a norm and a quantization."""
    y, _ = npu.npu_rms_norm(x + residual, gain, 1e-6)
    quantized, _ = npu.npu_dynamic_quant(y)
    return quantized


def main() -> None:
    sizes = [(ROWS, WIDTH), (ROWS, WIDTH), (WIDTH,)]
    module = trace.trace(block, trace.fake_inputs(sizes, [torch.bfloat16] * 3, "cpu"))
    manager = GraphFusionPassManager()
    manager.add(AscendDensePass({}, "model", inductor=False))
    with pass_context(Range(1, 128)):
        manager(module)
    inputs = [torch.randn(size).bfloat16() for size in sizes]
    results = module(*inputs)
    result = results[0] if isinstance(results, tuple) else results
    apart = (result.int() - block(*inputs).int()).abs().max().item()
    fired = dict(ascend_passes.reports()[-1].fired)
    print(json.dumps({"fired": fired, "apart": apart}))


if __name__ == "__main__":
    main()
